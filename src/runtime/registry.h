#pragma once

#include <cstddef>
#include <mutex>
#include <vector>

namespace atlas::runtime {

class Session;

/** The sessions of one runtime that live. Thread-safe. */
class Registry {
public:
    void add(Session* session);
    void remove(Session* session);
    size_t size() const;
    /** None of them ends meanwhile. */
    template <typename Visit>
    void for_each(Visit visit) const {
        const std::lock_guard lock(mutex_);
        for (const Session* session : sessions_) visit(*session);
    }

private:
    mutable std::mutex mutex_;
    std::vector<Session*> sessions_;  // guarded by mutex_
};

}  // namespace atlas::runtime
