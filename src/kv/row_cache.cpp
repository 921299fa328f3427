#include "kv/row_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kv/pager.h"
#include "kv/ram_tier.h"

namespace atlas::kv {
namespace {

// Reads count half as much after so many further ones of the same owner: on traces of two models this and 8 miss least, 64 a quarter more
// (docs/design/experiments.md).
constexpr double kHalfLife = 16.0;
// Looking for those that leave goes over all rows, so that many leave at a time.
constexpr size_t kShareThatLeaves = 32;
// Frames given back at a time at least: it goes over all rows, too.
constexpr uint64_t kFramesBack = 8;

}  // namespace

RowCache::RowCache(Pager& pager, RamTier& tier, size_t row_bytes, size_t frame_bytes)
    : pager_(pager),
      tier_(tier),
      row_bytes_(row_bytes),
      frame_bytes_(frame_bytes),
      per_frame_(tier.page_size(frame_bytes) / row_bytes) {
    pager_.add(this);
}

RowCache::~RowCache() {
    pager_.remove(this);
    for (std::byte* frame : frames_) {
        if (frame) tier_.release(frame, frame_bytes_);
    }
}

uint16_t RowCache::enter(Owner* owner) {
    const auto at = std::find(owners_.begin(), owners_.end(), nullptr);
    const auto number = static_cast<uint16_t>(at - owners_.begin());
    if (at == owners_.end()) {
        owners_.push_back(owner);
    } else {
        *at = owner;
    }
    ++n_owners_;
    return number;
}

void RowCache::leave(uint16_t owner) noexcept {
    owners_[owner] = nullptr;
    --n_owners_;
    trim();
}

void RowCache::advance() { now_ += 1.0 / (kHalfLife * static_cast<double>(n_owners_)); }

void RowCache::use(uint32_t slot) {
    Row& row = rows_[slot];
    ++row.pins;
    // A sum of reads s, each worth 2^(−age), has the rank log2(s) + now, which orders rows whenever it is looked at.
    row.rank = pager_.policy().by_age_alone() ? now_ : now_ + std::log2(std::exp2(row.rank - now_) + 1.0);
}

uint32_t RowCache::take(uint16_t owner, uint32_t place) {
    // Where all rows are pinned, pages that are in use must make room for what is wanted now.
    if (free_.empty() && !grow(true) && evict(std::max<size_t>(1, rows() / kShareThatLeaves)) == 0 && !grow(false))
        return kNone;
    const uint32_t slot = free_.back();
    free_.pop_back();
    rows_[slot] = {now_, place, owner, 1};
    return slot;
}

void RowCache::drop(uint32_t slot) noexcept {
    rows_[slot] = {};
    free_.push_back(slot);
}

bool RowCache::grow(bool idle) {
    const auto at = static_cast<size_t>(std::find(frames_.begin(), frames_.end(), nullptr) - frames_.begin());
    const bool is_new = at == frames_.size();
    if (is_new) {
        // Room for all before anything changes.
        if (frames_.capacity() == frames_.size()) frames_.reserve(2 * frames_.size() + 16);
        const size_t slots = (frames_.size() + 1) * per_frame_;
        if (rows_.capacity() < slots) rows_.reserve(2 * slots);
        if (free_.capacity() < slots) free_.reserve(2 * slots);
    }
    const size_t bytes = tier_.page_size(frame_bytes_);
    std::byte* memory = nullptr;
    if (!(idle ? pager_.make_idle_room(bytes) : pager_.make_any_room(bytes)) ||
        !tier_.allocate(frame_bytes_, &memory, false).is_ok())
        return false;
    if (is_new) {
        frames_.push_back(memory);
        rows_.resize(rows_.size() + per_frame_);
    } else {
        frames_[at] = memory;
        dead_ -= per_frame_;
    }
    for (size_t i = per_frame_; i-- > 0;) free_.push_back(static_cast<uint32_t>(at * per_frame_ + i));
    return true;
}

size_t RowCache::evict(size_t count) {
    ranks_.clear();
    for (uint32_t slot = 0; slot < rows_.size(); ++slot) {
        const Row& row = rows_[slot];
        if (row.owner != kFree && row.pins == 0) ranks_.emplace_back(row.rank, slot);
    }
    count = std::min(count, ranks_.size());
    if (count < ranks_.size())
        std::nth_element(ranks_.begin(), ranks_.begin() + static_cast<std::ptrdiff_t>(count), ranks_.end());
    for (size_t i = 0; i < count; ++i) {
        const uint32_t slot = ranks_[i].second;
        owners_[rows_[slot].owner]->row_left(rows_[slot].place);
        drop(slot);
    }
    return count;
}

size_t RowCache::used_of(size_t frame, bool* pinned) const {
    size_t used = 0;
    *pinned = false;
    for (size_t slot = frame * per_frame_; slot < (frame + 1) * per_frame_; ++slot) {
        used += rows_[slot].owner != kFree;
        *pinned = *pinned || rows_[slot].pins > 0;
    }
    return used;
}

void RowCache::free_frame(size_t frame) noexcept {
    tier_.release(frames_[frame], frame_bytes_);
    frames_[frame] = nullptr;
    dead_ += per_frame_;
}

bool RowCache::give_back(uint64_t bytes) {
    const uint64_t size = tier_.page_size(frame_bytes_);
    const auto wanted = static_cast<size_t>(std::max((bytes + size - 1) / size, kFramesBack));
    const size_t slots = wanted * per_frame_;
    if (free_.size() < slots) evict(slots - free_.size());
    // Frames with fewest rows go; these rows move to what is free in others.
    std::vector<std::pair<size_t, size_t>> frames;
    for (size_t frame = 0; frame < frames_.size(); ++frame) {
        bool pinned = false;
        if (!frames_[frame]) continue;
        const size_t used = used_of(frame, &pinned);
        if (!pinned) frames.emplace_back(used, frame);
    }
    std::sort(frames.begin(), frames.end());
    size_t room = free_.size();  // free slots of frames that stay
    size_t count = 0, moved = 0;
    std::vector<bool> goes(frames_.size());
    for (const auto& [used, frame] : frames) {
        const size_t left = room - (per_frame_ - used);
        if (count == wanted || moved + used > left) break;
        room = left;
        moved += used;
        goes[frame] = true;
        ++count;
    }
    std::erase_if(free_, [&](uint32_t slot) { return goes[slot / per_frame_]; });
    for (size_t frame = 0; frame < frames_.size(); ++frame) {
        if (!goes[frame]) continue;
        for (size_t slot = frame * per_frame_; slot < (frame + 1) * per_frame_; ++slot) {
            if (rows_[slot].owner == kFree) continue;
            const uint32_t to = free_.back();
            free_.pop_back();
            std::memcpy(row(to), row(static_cast<uint32_t>(slot)), row_bytes_);
            rows_[to] = std::exchange(rows_[slot], {});
            owners_[rows_[to].owner]->row_moved(rows_[to].place, to);
        }
        free_frame(frame);
    }
    return count > 0;
}

void RowCache::trim() noexcept {
    for (size_t frame = 0; frame < frames_.size(); ++frame) {
        bool pinned = false;
        if (!frames_[frame] || used_of(frame, &pinned) > 0) continue;
        std::erase_if(free_, [&](uint32_t slot) { return slot / per_frame_ == frame; });
        free_frame(frame);
    }
}

uint64_t RowCache::bytes() const { return (frames_.size() - dead_ / per_frame_) * tier_.page_size(frame_bytes_); }

}  // namespace atlas::kv
