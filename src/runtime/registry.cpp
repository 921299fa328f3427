#include "runtime/registry.h"

#include <algorithm>

namespace atlas::runtime {

Registry& Registry::instance() {
    // Leaked on purpose: hosts may free contexts in static destructors.
    static Registry& registry = *new Registry;
    return registry;
}

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
