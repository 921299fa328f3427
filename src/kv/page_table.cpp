#include "kv/page_table.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <string>
#include <utility>

namespace atlas::kv {
namespace {

/** Of the process, so that tables with different clocks, too, cannot be taken for each other. */
uint64_t next_id() {
    static std::atomic<uint64_t> id{1};
    return id.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

PageTable::PageTable(RamTier& tier, WriteClock& clock, size_t row_bytes, int64_t rows)
    : tier_(tier),
      pager_(tier.pager()),
      clock_(clock),
      row_bytes_(row_bytes),
      rows_(rows),
      page_bytes_(row_bytes * kPageRows),
      zeros_(tier.zeros(page_bytes_)),
      id_(next_id()),
      slots_(static_cast<size_t>((rows + kPageRows - 1) / kPageRows)),
      pins_(slots_.size()),
      versions_(slots_.size()),
      chunk_versions_((slots_.size() + kChunkPages - 1) / kChunkPages),
      epochs_(slots_.size()) {
    // Any start will do; with this one a clock near an overflow has versions near it.
    for (auto& version : versions_) version.store(clock.now(), std::memory_order_relaxed);
    for (auto& version : chunk_versions_) version.store(clock.now(), std::memory_order_relaxed);
    if (pager_) {
        units_.resize(slots_.size());
        uses_.resize(slots_.size());
        pager_->add(this);
    }
    tier_.add(this);
}

PageTable::~PageTable() {
    tier_.remove(this);
    if (pager_) {
        pager_->remove(this);
        rows_of_keys_.reset();
        for (size_t index = 0; index < units_.size(); ++index) drop_unit(index);
    }
    for (const auto& slot : slots_) give_back(slot.load(std::memory_order_relaxed));
    for (const Dropped& dropped : dropped_) give_back(dropped.slot);
}

Status PageTable::check(const char* operation, std::span<const PageRange> ranges) const {
    for (const PageRange& range : ranges) {
        if (range.first < 0 || range.count < 0 || range.count > pages() - range.first)
            return Status::invalid_argument(std::string(operation) + ": pages " + std::to_string(range.first) + " + " +
                                            std::to_string(range.count) + " of " + std::to_string(pages()));
    }
    return Status::ok();
}

Status PageTable::pin(std::span<const PageRange> ranges, Pinned* out, PinMode mode) const {
    const PinRequest request{this, ranges, out};
    return pin({&request, 1}, mode);
}

Status PageTable::pin(std::span<const PinRequest> requests, PinMode mode) {
    std::vector<Pager::Missing> missing;
    Status status;
    for (const PinRequest& request : requests) request.out->unpin();
    for (const PinRequest& request : requests) {
        if (status.is_ok()) status = request.table->pin_resident(request.ranges, mode, request.out, &missing);
    }
    if (status.is_ok() && !missing.empty()) {
        status = mode == PinMode::kResident ? Status::unsupported(std::to_string(missing.size()) + " pages are on disk")
                                            : missing.front().table->pager_->load(missing, mode);
    }
    if (!status.is_ok()) {
        for (const PinRequest& request : requests) request.out->unpin();
    }
    return status;
}

Status PageTable::pin_resident(std::span<const PageRange> ranges, PinMode mode, Pinned* out,
                               std::vector<Pager::Missing>* missing) const {
    if (Status status = check("pin", ranges); !status.is_ok()) return status;
    int64_t first = pages();
    int64_t end = 0;
    for (const PageRange& range : ranges) {
        if (range.count == 0) continue;
        first = std::min(first, range.first);
        end = std::max(end, range.first + range.count);
    }
    if (first >= end) return Status::ok();
    out->ranges_.assign(ranges.begin(), ranges.end());
    out->addresses_.assign(static_cast<size_t>(end - first), nullptr);
    out->first_ = first;
    const std::lock_guard lock(mutex_);
    const bool counts = mode == PinMode::kKeep || mode == PinMode::kThrough;
    if (pager_ && counts) ++time_;
    uint64_t hits = 0;
    for (const PageRange& range : ranges) {
        const std::byte** addresses = out->addresses_.data() + (range.first - first);
        const auto begin = static_cast<size_t>(range.first);
        const auto count = static_cast<size_t>(range.count);
        for (size_t i = 0; i < count; ++i) {
            const Slot slot = slots_[begin + i].load(std::memory_order_relaxed);
            if (pager_) {
                if (slot == kCold) missing->push_back({this, begin + i, &addresses[i], out});
                hits += slot != kCold;
                if (counts) pager_->policy().note(time_, &uses_[begin + i]);
            }
            ++pins_[begin + i];
            const std::byte* memory = memory_of(slot);
            addresses[i] = memory ? memory : zeros_;
        }
    }
    out->table_ = this;
    if (pager_) pager_->count_hits(hits);
    return Status::ok();
}

void PageTable::unpin(std::span<const PageRange> ranges) const noexcept {
    const std::lock_guard lock(mutex_);
    for (const PageRange& range : ranges) {
        for (int64_t i = range.first; i < range.first + range.count; ++i) --pins_[static_cast<size_t>(i)];
    }
    if (dropped_.empty()) return;
    std::erase_if(dropped_, [&](const Dropped& dropped) {
        if (pins_[dropped.page] > 0) return false;
        give_back(dropped.slot);
        return true;
    });
}

void PageTable::give_back(Slot slot) const noexcept {
    if (slot == 0 || slot == kCold) return;
    if (slot & kShared) {
        const auto holders = holders_.find(memory_of(slot));
        if (--holders->second > 0) return;
        holders_.erase(holders);
    }
    tier_.release(memory_of(slot), page_bytes_);
}

Status PageTable::lease(size_t offset, size_t bytes, WriteLease* out) {
    out->end();
    const size_t index = offset / page_bytes_;
    const size_t inside = offset % page_bytes_;
    if (!covers(offset, bytes) || bytes > page_bytes_ - inside)
        return Status::invalid_argument("lease of bytes " + std::to_string(offset) + " + " + std::to_string(bytes) +
                                        ": pages have " + std::to_string(page_bytes_) + ", the table " +
                                        std::to_string(this->bytes()));
    if (pager_) return lease_paged(index, inside, out);
    const Slot slot = slots_[index].load(std::memory_order_acquire);
    std::byte* memory = memory_of(slot);
    if (!is_own(slot)) {
        if (Status status = own(index, &memory); !status.is_ok()) return status;
    }
    stamp(index);
    out->table_ = this;
    out->page_ = index;
    out->data_ = memory + inside;
    return Status::ok();
}

Status PageTable::own(size_t index, std::byte** memory) {
    const std::lock_guard lock(mutex_);
    const Slot slot = slots_[index].load(std::memory_order_relaxed);
    *memory = memory_of(slot);
    if (is_own(slot)) return Status::ok();
    if (slot != 0) {
        const auto holders = holders_.find(*memory);
        if (holders->second == 1) {  // the others have let go
            holders_.erase(holders);
            slots_[index].store(slot_of(*memory), std::memory_order_release);
            return Status::ok();
        }
    }
    reserve_dropped(index);
    if (Status status = tier_.allocate(page_bytes_, memory); !status.is_ok()) return status;
    if (slot != 0) std::memcpy(*memory, memory_of(slot), page_bytes_);
    replace(index, slot_of(*memory));
    return Status::ok();
}

Status PageTable::try_reserve(const std::vector<size_t>& pages) {
    const std::lock_guard lock(mutex_);
    std::vector<std::byte*> made;
    made.reserve(pages.size());
    dropped_.reserve(dropped_.size() + pages.size());
    Status status;
    for (size_t i = 0; i < pages.size() && status.is_ok(); ++i) {
        std::byte* memory = nullptr;
        try {
            status = tier_.allocate(page_bytes_, &memory);
        } catch (const std::bad_alloc&) {
            status = Status(StatusCode::kOutOfMemory, {});
        }
        if (status.is_ok()) made.push_back(memory);
    }
    for (size_t i = 0; i < made.size(); ++i) {
        const Slot slot = slots_[pages[i]].load(std::memory_order_relaxed);
        if (!status.is_ok() || is_own(slot)) {
            tier_.release(made[i], page_bytes_);
            continue;
        }
        if (slot != 0) std::memcpy(made[i], memory_of(slot), page_bytes_);
        replace(pages[i], slot_of(made[i]));
    }
    return status;
}

Status PageTable::reserve(std::span<const PageRange> ranges, Pinned* held) {
    if (held) held->unpin();
    Status status = check("reserve", ranges);
    if (pager_ && status.is_ok()) return reserve_paged(ranges, held);
    for (bool reclaimed = false; status.is_ok();) {
        std::vector<size_t> missing;
        for (const PageRange& range : ranges) {
            for (int64_t page = range.first; page < range.first + range.count; ++page) {
                if (!is_reserved(page)) missing.push_back(static_cast<size_t>(page));
            }
        }
        std::sort(missing.begin(), missing.end());
        missing.erase(std::unique(missing.begin(), missing.end()), missing.end());
        if (missing.empty()) break;
        status = try_reserve(missing);
        if (status.code() != StatusCode::kOutOfMemory || reclaimed || !tier_.reclaim()) break;
        // Pages of these ranges may be among those that came back.
        reclaimed = true;
        status = Status::ok();
    }
    return status;
}

void PageTable::drop(std::span<const PageRange> ranges) {
    size_t kept = 0;
    for (const PageRange& range : ranges) {
        for (int64_t i = range.first; i < range.first + range.count; ++i) kept += pins_[static_cast<size_t>(i)] > 0;
    }
    // Before anything changes, so that the rest cannot fail.
    dropped_.reserve(dropped_.size() + kept);
    for (const PageRange& range : ranges) {
        for (int64_t i = range.first; i < range.first + range.count; ++i) {
            const auto index = static_cast<size_t>(i);
            stamp(index);
            replace(index, 0);
            stamp(index);
        }
    }
}

void PageTable::reserve_dropped(size_t index) {
    if (pins_[index] > 0) dropped_.reserve(dropped_.size() + 1);
}

void PageTable::replace(size_t index, Slot slot) noexcept {
    const Slot before = slots_[index].exchange(slot, std::memory_order_acq_rel);
    layout_.fetch_add(1, std::memory_order_release);
    if (pager_) drop_unit(index);
    if (before != 0 && before != kCold && pins_[index] > 0) {
        dropped_.push_back({index, before});
    } else {
        give_back(before);
    }
}

void PageTable::note_live(int64_t first, int64_t live_end, int64_t end) {
    const std::lock_guard lock(mutex_);
    auto known = std::find_if(live_.begin(), live_.end(), [&](const Live& live) { return live.first == first; });
    if (known == live_.end()) known = live_.insert(live_.end(), {first, 0, end, 0});
    // Of several views of one graph, the largest counts.
    if (known->time != clock_.now() || known->end != end) known->live_end = 0;
    *known = {first, std::max(known->live_end, live_end), end, clock_.now()};
}

bool PageTable::is_needed(size_t index) const {
    const int64_t row = static_cast<int64_t>(index) * kPageRows;
    const int64_t end = std::min(row + kPageRows, rows_);
    return std::none_of(live_.begin(), live_.end(), [&](const Live& live) {
        return row >= std::max(live.first, live.live_end) && end <= live.end &&
               epochs_[index].load(std::memory_order_relaxed) < live.time;
    });
}

bool PageTable::reclaim() {
    const std::lock_guard lock(mutex_);
    bool any = false;
    for (size_t index = 0; index < slots_.size(); ++index) {
        const Slot slot = slots_[index].load(std::memory_order_relaxed);
        if (slot == 0 || slot == kCold || pins_[index] > 0) continue;
        const bool needed = is_needed(index);
        if (needed && !is_zero(memory_of(slot), page_bytes_)) continue;
        const bool shared = (slot & kShared) && holders_.at(memory_of(slot)) > 1;
        any = any || !shared;
        if (!needed) stamp(index);
        replace(index, 0);
    }
    return any;
}

void PageTable::clear() {
    const PageRange all{0, pages()};
    const auto alone = pager_ ? pager_->exclusive() : std::unique_lock<std::mutex>();
    const std::lock_guard lock(mutex_);
    drop({&all, 1});
    if (rows_of_keys_) {
        for (int64_t page = 0; page < pages(); ++page) rows_of_keys_->forget(page);
    }
    damage_.clear();
    damaged_.store(false, std::memory_order_release);
}

void PageTable::release(std::span<const PageRange> ranges) {
    {
        const auto alone = pager_ ? pager_->exclusive() : std::unique_lock<std::mutex>();
        const std::lock_guard lock(mutex_);
        drop(ranges);
        for (const PageRange& range : rows_of_keys_ ? ranges : std::span<const PageRange>()) {
            for (int64_t i = 0; i < range.count; ++i) rows_of_keys_->forget(range.first + i);
        }
    }
    for (const PageRange& range : ranges)
        mend(static_cast<size_t>(range.first) * page_bytes_, static_cast<size_t>(range.count) * page_bytes_);
}

Status PageTable::damage() const {
    if (!is_damaged()) return Status::ok();
    const std::lock_guard lock(mutex_);
    return damage_.reason();
}

bool PageTable::is_damaged(int64_t first, int64_t end) const {
    if (!is_damaged()) return false;
    const std::lock_guard lock(mutex_);
    return damage_.overlaps(first, end);
}

void PageTable::mark_damaged(size_t offset, size_t bytes, const Status& reason) noexcept {
    const std::lock_guard lock(mutex_);
    const auto first = static_cast<int64_t>(offset / row_bytes_);
    const size_t end = bytes <= this->bytes() && offset <= this->bytes() - bytes ? offset + bytes : this->bytes();
    damage_.add(first, static_cast<int64_t>((end + row_bytes_ - 1) / row_bytes_), reason);
    damaged_.store(!damage_.empty(), std::memory_order_release);
}

void PageTable::mend(size_t offset, size_t bytes) noexcept {
    if (!is_damaged()) return;
    const std::lock_guard lock(mutex_);
    damage_.remove(static_cast<int64_t>((offset + row_bytes_ - 1) / row_bytes_),
                   static_cast<int64_t>((offset + bytes) / row_bytes_));
    damaged_.store(!damage_.empty(), std::memory_order_release);
}

}  // namespace atlas::kv
