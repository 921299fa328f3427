#include "runtime/registry.h"

#include <algorithm>

namespace atlas::runtime {

void Registry::add(Session* session) {
    const std::lock_guard lock(mutex_);
    sessions_.push_back(session);
}

void Registry::remove(Session* session) {
    const std::lock_guard lock(mutex_);
    std::erase(sessions_, session);
}

size_t Registry::size() const {
    const std::lock_guard lock(mutex_);
    return sessions_.size();
}

}  // namespace atlas::runtime
