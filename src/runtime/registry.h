#pragma once

#include <cstddef>
#include <mutex>
#include <vector>

namespace atlas::runtime {

class Session;

/** The sessions of this process that live. Thread-safe. */
class Registry {
public:
    static Registry& instance();

    void add(Session* session);
    void remove(Session* session);
    size_t size() const;

private:
    mutable std::mutex mutex_;
    std::vector<Session*> sessions_;  // guarded by mutex_
};

}  // namespace atlas::runtime
