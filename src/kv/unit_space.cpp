#include "kv/unit_space.h"

#include <algorithm>

namespace atlas::kv {
namespace {

constexpr uint64_t kExtent = uint64_t{64} << 20;

}  // namespace

UnitSpace::Result UnitSpace::allocate(uint64_t bytes, uint64_t* offset, int* error) {
    const std::lock_guard lock(mutex_);
    if (in_use_ == 0 && retired_ == 0) {
        // Nothing lies in the file: the next context may have units of other sizes.
        units_.clear();
        used_ = 0;
    }
    Units& units = units_[bytes];
    if (!units.free.empty()) {
        *offset = units.free.back();
        units.free.pop_back();
        in_use_ += bytes;
        return Result::kOk;
    }
    if (units.free.capacity() <= units.cut) units.free.reserve(2 * units.cut + 64);
    if (file_bytes_ - used_ < bytes) {
        uint64_t more = std::max(kExtent, bytes);
        if (limit_ > 0) more = std::min(more, limit_ - std::min(limit_, file_bytes_));
        if (file_bytes_ - used_ + more < bytes) return Result::kLimit;
        *error = grow_(file_bytes_, more);
        if (*error != 0) return Result::kError;
        file_bytes_ += more;
    }
    *offset = used_;
    used_ += bytes;
    in_use_ += bytes;
    ++units.cut;
    return Result::kOk;
}

void UnitSpace::release(uint64_t offset, uint64_t bytes) noexcept {
    const std::lock_guard lock(mutex_);
    units_.find(bytes)->second.free.push_back(offset);
    in_use_ -= bytes;
}

void UnitSpace::retire(uint64_t bytes) noexcept {
    const std::lock_guard lock(mutex_);
    in_use_ -= bytes;
    retired_ += bytes;
}

uint64_t UnitSpace::in_use() const {
    const std::lock_guard lock(mutex_);
    return in_use_;
}

uint64_t UnitSpace::file_bytes() const {
    const std::lock_guard lock(mutex_);
    return file_bytes_;
}

}  // namespace atlas::kv
