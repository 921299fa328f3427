#include "kv/page_table.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <string>

namespace atlas::kv {

PageTable::PageTable(RamTier& tier, WriteClock& clock, size_t row_bytes, int64_t rows)
    : tier_(tier),
      clock_(clock),
      row_bytes_(row_bytes),
      rows_(rows),
      page_bytes_(row_bytes * kPageRows),
      zeros_(tier.zeros(page_bytes_)),
      id_(clock.next_table()),
      slots_(static_cast<size_t>((rows + kPageRows - 1) / kPageRows)),
      pins_(slots_.size()),
      versions_(slots_.size()),
      chunk_versions_((slots_.size() + kChunkPages - 1) / kChunkPages),
      epochs_(slots_.size()) {
    // Any start will do; with this one a clock near an overflow has versions near it.
    for (auto& version : versions_) version.store(clock.now(), std::memory_order_relaxed);
    for (auto& version : chunk_versions_) version.store(clock.now(), std::memory_order_relaxed);
}

PageTable::~PageTable() {
    for (const auto& slot : slots_) give_back(slot.load(std::memory_order_relaxed));
    for (const Dropped& dropped : dropped_) give_back(dropped.slot);
}

template <typename Visit>
Status PageTable::for_each_page(size_t offset, size_t bytes, Visit visit) const {
    while (bytes > 0) {
        const size_t index = offset / page_bytes_;
        const size_t inside = offset % page_bytes_;
        const size_t count = std::min(bytes, page_bytes_ - inside);
        if (Status status = visit(index, inside, count); !status.is_ok()) return status;
        offset += count;
        bytes -= count;
    }
    return Status::ok();
}

Status PageTable::pin(std::span<const PageRange> ranges, Pinned* out) const {
    out->unpin();
    int64_t first = pages();
    int64_t end = 0;
    for (const PageRange& range : ranges) {
        if (range.first < 0 || range.count < 0 || range.count > pages() - range.first)
            return Status::invalid_argument("pin: pages " + std::to_string(range.first) + " + " +
                                            std::to_string(range.count) + " of " + std::to_string(pages()));
        if (range.count == 0) continue;
        first = std::min(first, range.first);
        end = std::max(end, range.first + range.count);
    }
    if (first >= end) return Status::ok();
    out->ranges_.assign(ranges.begin(), ranges.end());
    out->addresses_.assign(static_cast<size_t>(end - first), nullptr);
    out->first_ = first;
    const std::lock_guard lock(mutex_);
    for (const PageRange& range : ranges) {
        const std::byte** addresses = out->addresses_.data() + (range.first - first);
        const auto begin = static_cast<size_t>(range.first);
        const auto count = static_cast<size_t>(range.count);
        for (size_t i = 0; i < count; ++i) {
            ++pins_[begin + i];
            const std::byte* memory = memory_of(slots_[begin + i].load(std::memory_order_relaxed));
            addresses[i] = memory ? memory : zeros_;
        }
    }
    out->table_ = this;
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
    if (slot != 0) tier_.release(memory_of(slot), page_bytes_);
}

Status PageTable::lease(size_t offset, size_t bytes, WriteLease* out) {
    out->end();
    const size_t index = offset / page_bytes_;
    const size_t inside = offset % page_bytes_;
    if (!covers(offset, bytes) || bytes > page_bytes_ - inside)
        return Status::invalid_argument("lease of bytes " + std::to_string(offset) + " + " + std::to_string(bytes) +
                                        ": pages have " + std::to_string(page_bytes_) + ", the table " +
                                        std::to_string(this->bytes()));
    std::byte* memory = memory_of(slots_[index].load(std::memory_order_acquire));
    if (memory == nullptr) {
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
    *memory = memory_of(slots_[index].load(std::memory_order_relaxed));
    if (*memory != nullptr) return Status::ok();
    if (Status status = tier_.allocate(page_bytes_, memory); !status.is_ok()) return status;
    slots_[index].store(slot_of(*memory), std::memory_order_release);
    layout_.fetch_add(1, std::memory_order_release);
    return Status::ok();
}

void PageTable::read(size_t offset, void* destination, size_t bytes) const {
    auto* out = static_cast<std::byte*>(destination);
    (void)for_each_page(offset, bytes, [&](size_t index, size_t inside, size_t count) {
        std::memcpy(out, resident(static_cast<int64_t>(index)) + inside, count);
        out += count;
        return Status::ok();
    });
}

Status PageTable::write_parts(size_t offset, const void* source, size_t bytes) {
    const auto* in = static_cast<const std::byte*>(source);
    return for_each_page(offset, bytes, [&](size_t index, size_t inside, size_t count) {
        WriteLease lease;
        if (Status status = this->lease(index * page_bytes_ + inside, count, &lease); !status.is_ok()) return status;
        std::memcpy(lease.data(), in, count);
        in += count;
        return Status::ok();
    });
}

Status PageTable::write(size_t offset, const void* source, size_t bytes) {
    Status status = write_parts(offset, source, bytes);
    if (!status.is_ok()) mark_damaged(status);
    return status;
}

Status PageTable::update(size_t offset, const void* source, size_t bytes) {
    const auto* in = static_cast<const std::byte*>(source);
    Status status = for_each_page(offset, bytes, [&](size_t index, size_t inside, size_t count) {
        const std::byte* from = in;
        in += count;
        if (std::memcmp(resident(static_cast<int64_t>(index)) + inside, from, count) == 0) return Status::ok();
        return write_parts(index * page_bytes_ + inside, from, count);
    });
    if (!status.is_ok()) mark_damaged(status);
    return status;
}

Status PageTable::fill(size_t offset, uint8_t value, size_t bytes) {
    const bool whole = offset == 0 && bytes == this->bytes();
    if (value == 0 && whole) {
        clear();
        return Status::ok();
    }
    Status status = for_each_page(offset, bytes, [&](size_t index, size_t inside, size_t count) {
        // Zeros on a page that does not exist are already there.
        if (value == 0 && slots_[index].load(std::memory_order_acquire) == 0) return Status::ok();
        WriteLease lease;
        if (Status leased = this->lease(index * page_bytes_ + inside, count, &lease); !leased.is_ok()) return leased;
        std::memset(lease.data(), value, count);
        return Status::ok();
    });
    if (!status.is_ok()) {
        mark_damaged(status);
    } else if (whole) {
        const std::lock_guard lock(mutex_);
        damaged_.store(false, std::memory_order_release);
    }
    return status;
}

bool PageTable::is_unmade(size_t offset, size_t bytes) const {
    bool unmade = true;
    (void)for_each_page(offset, bytes, [&](size_t index, size_t, size_t) {
        unmade = unmade && slots_[index].load(std::memory_order_acquire) == 0;
        return Status::ok();
    });
    return unmade;
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
            const Slot slot = slots_[index].exchange(0, std::memory_order_acq_rel);
            if (slot == 0) continue;
            if (pins_[index] > 0) {
                dropped_.push_back({index, slot});
            } else {
                give_back(slot);
            }
            stamp(index);
        }
    }
    layout_.fetch_add(1, std::memory_order_release);
}

void PageTable::clear() {
    const PageRange all{0, pages()};
    const std::lock_guard lock(mutex_);
    drop({&all, 1});
    damaged_.store(false, std::memory_order_release);
}

void PageTable::release(std::span<const PageRange> ranges) {
    const std::lock_guard lock(mutex_);
    drop(ranges);
}

Status PageTable::damage() const {
    if (!is_damaged()) return Status::ok();
    const std::lock_guard lock(mutex_);
    return damage_.is_ok() ? Status::out_of_memory("a write failed") : damage_;
}

void PageTable::mark_damaged(const Status& reason) noexcept {
    const std::lock_guard lock(mutex_);
    if (damaged_.exchange(true, std::memory_order_acq_rel)) return;
    try {
        damage_ = reason;
    } catch (const std::bad_alloc&) {
        damage_ = Status::ok();  // damage() has words for it
    }
}

}  // namespace atlas::kv
