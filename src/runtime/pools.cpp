#include "runtime/pools.h"

#include <algorithm>
#include <new>
#include <string>

namespace atlas::runtime {

uint64_t Pools::limit() const {
    uint64_t sum = 0;
    for (const auto& [owner, bytes] : pools_) {
        if (bytes == 0) return own_limit_;
        sum += bytes;
    }
    if (sum == 0) return own_limit_;
    return own_limit_ == 0 ? sum : std::min(sum, own_limit_);
}

Status Pools::set(const void* owner, uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    const auto found = pools_.find(owner);
    const bool had = found != pools_.end();
    const uint64_t before = had ? found->second : 0;
    const uint64_t limit_before = budget_.limit();
    pools_[owner] = bytes;
    const uint64_t most = limit();
    // From here on nobody takes what is to be given back.
    budget_.set_limit(most);
    Status status;
    try {
        if (most == 0 || budget_.in_use() <= most || (pager_ && pager_->make_room(0).is_ok())) return Status::ok();
        status = Status::out_of_memory(
            std::to_string(budget_.in_use()) + " bytes are in use, of KV caches, indexes and memories, " +
            (pager_ ? "and what remains cannot leave memory" : "and nothing can leave memory without ATLAS_KV_DISK"));
    } catch (const std::bad_alloc&) {
        status = Status::out_of_memory("no memory for finding what can leave it");
    }
    if (had) {
        pools_[owner] = before;
    } else {
        pools_.erase(owner);
    }
    budget_.set_limit(limit_before);
    return status;
}

void Pools::remove(const void* owner) noexcept {
    const std::lock_guard lock(mutex_);
    pools_.erase(owner);
    budget_.set_limit(limit());
}

void Pools::set_own_limit(uint64_t bytes) noexcept {
    const std::lock_guard lock(mutex_);
    own_limit_ = bytes;
    budget_.set_limit(limit());
}

}  // namespace atlas::runtime
