#include "kv/damage.h"

#include <algorithm>
#include <new>

namespace atlas::kv {

Status Damage::reason() const {
    if (empty()) return Status::ok();
    return reason_.is_ok() ? Status(StatusCode::kOutOfMemory, {}) : reason_;
}

bool Damage::overlaps(int64_t first, int64_t end) const {
    if (first >= end) return false;
    return everything_ || std::any_of(ranges_.begin(), ranges_.end(),
                                      [&](const Range& range) { return range.first < end && first < range.end; });
}

void Damage::add(int64_t first, int64_t end, const Status& reason) noexcept {
    if (first >= end) return;
    try {
        if (empty()) reason_ = reason;
        std::vector<Range> all;
        all.reserve(ranges_.size() + 1);
        for (const Range& range : ranges_) {
            if (range.end < first || end < range.first) {
                all.push_back(range);
            } else {
                first = std::min(first, range.first);
                end = std::max(end, range.end);
            }
        }
        const auto after =
            std::find_if(all.begin(), all.end(), [&](const Range& range) { return range.first > first; });
        all.insert(after, {first, end});
        ranges_ = std::move(all);
    } catch (const std::bad_alloc&) {
        everything_ = true;
    }
}

void Damage::remove(int64_t first, int64_t end) noexcept {
    if (first >= end || everything_) return;
    try {
        std::vector<Range> left;
        left.reserve(2 * ranges_.size());
        for (const Range& range : ranges_) {
            if (range.first < std::min(range.end, first)) left.push_back({range.first, std::min(range.end, first)});
            if (std::max(range.first, end) < range.end) left.push_back({std::max(range.first, end), range.end});
        }
        ranges_ = std::move(left);
    } catch (const std::bad_alloc&) {
        // They stay damaged: an error too many, and none too few.
    }
}

void Damage::clear() noexcept {
    ranges_.clear();
    everything_ = false;
}

}  // namespace atlas::kv
