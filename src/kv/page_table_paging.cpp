// What a table does where its pages may be on disk: see PageTable and Pager.
#include <algorithm>
#include <cstring>
#include <utility>

#include "kv/page_table.h"

namespace atlas::kv {

void PageTable::drop_unit(size_t index) noexcept {
    DiskUnit& unit = units_[index];
    if (unit.exists()) pager_->disk().release(unit, unit_bytes());
    unit = {};
}

void PageTable::forget_cold(size_t index) {
    if (slots_[index].load(std::memory_order_acquire) != kCold) return;
    const auto alone = pager_->exclusive();
    const std::lock_guard lock(mutex_);
    if (slots_[index].load(std::memory_order_relaxed) != kCold) return;
    stamp(index);
    replace(index, 0);
    stamp(index);
}

bool PageTable::is_leaving(int64_t page) const {
    if (!pager_ || !pager_->is_short()) return false;
    const std::lock_guard lock(mutex_);
    return time_ - uses_[static_cast<size_t>(page)].last > kIdleUses;
}

KeyRows* PageTable::key_rows(const PageTable& v, const KeyRows::Shape& shape) const {
    if (!pager_ || v.pager_ != pager_) return nullptr;
    if (!rows_of_keys_ || rows_v_ != v.id() || rows_of_keys_->shape() != shape) {
        rows_of_keys_.reset();
        RowCache* cache = tier_.row_cache(KeyRows::row_bytes(shape), page_bytes_);
        if (!cache) return nullptr;
        rows_of_keys_ = std::make_unique<KeyRows>(*pager_, *cache, shape, std::min(pages(), v.pages()));
        rows_v_ = v.id();
    }
    return rows_of_keys_.get();
}

Status PageTable::lease_paged(size_t index, size_t inside, WriteLease* out) {
    for (;;) {
        {
            const std::lock_guard lock(mutex_);
            const Slot slot = slots_[index].load(std::memory_order_relaxed);
            if (is_own(slot)) {
                // It may change from now on, and must neither leave memory nor be written meanwhile.
                ++pins_[index];
                drop_unit(index);
                pager_->policy().note(++time_, &uses_[index]);
                stamp(index);
                out->table_ = this;
                out->page_ = index;
                out->data_ = memory_of(slot) + inside;
                return Status::ok();
            }
        }
        // Another thread may take it away again before it is held.
        if (Status status = pager_->own(this, index); !status.is_ok()) return status;
    }
}

void PageTable::end_lease(size_t index) noexcept {
    if (!pager_) {
        stamp(index);
        return;
    }
    {
        const std::lock_guard lock(mutex_);
        stamp(index);
    }
    const PageRange range{static_cast<int64_t>(index), 1};
    unpin({&range, 1});
}

Status PageTable::reserve_paged(std::span<const PageRange> ranges, Pinned* held) {
    Pinned own;
    Pinned* const out = held ? held : &own;
    Status status = pin(ranges, out, PinMode::kKeep);
    for (const PageRange& range : ranges) {
        for (int64_t page = range.first; status.is_ok() && page < range.first + range.count; ++page) {
            if (!is_reserved(page)) status = pager_->own(this, static_cast<size_t>(page));
        }
    }
    if (!status.is_ok()) out->unpin();
    return status;
}

int64_t PageTable::pages_at_once() const {
    if (!pager_) return std::max<int64_t>(pages(), 1);
    return std::max<int64_t>(1, static_cast<int64_t>(tier_.budget().limit() / 8 / unit_bytes()));
}

double PageTable::value(size_t index) const {
    const std::lock_guard lock(mutex_);
    return pager_->policy().value(time_, uses_[index]);
}

Leaving PageTable::leave(size_t index) {
    const std::lock_guard lock(mutex_);
    const Slot slot = slots_[index].load(std::memory_order_relaxed);
    if (slot == 0 || slot == kCold || pins_[index] > 0) return Leaving::kBusy;
    if (!is_needed(index)) {
        stamp(index);
        replace(index, 0);
        return Leaving::kGone;
    }
    if (units_[index].exists()) {
        slots_[index].store(kCold, std::memory_order_release);
        layout_.fetch_add(1, std::memory_order_release);
        give_back(slot);
        return Leaving::kGone;
    }
    if (is_zero(memory_of(slot), page_bytes_)) {
        replace(index, 0);
        return Leaving::kGone;
    }
    return Leaving::kDirty;
}

void PageTable::drop_unneeded() {
    const std::lock_guard lock(mutex_);
    for (size_t index = 0; index < slots_.size(); ++index) {
        if (slots_[index].load(std::memory_order_relaxed) != kCold || pins_[index] > 0 || is_needed(index)) continue;
        stamp(index);
        replace(index, 0);
    }
}

bool PageTable::begin_write(size_t index, UnitTransfer* transfer, uint64_t* version) {
    const std::lock_guard lock(mutex_);
    const Slot slot = slots_[index].load(std::memory_order_relaxed);
    if (slot == 0 || slot == kCold || pins_[index] > 0 || units_[index].exists() || !is_needed(index)) return false;
    ++pins_[index];
    *version = versions_[index].load(std::memory_order_relaxed);
    transfer->memory = memory_of(slot);
    // Holding the mutex: nobody has a lease now, and whoever takes one later changes the version.
    transfer->unit.checksum = DiskTier::checksum(transfer->memory, transfer->bytes, transfer->unit.offset);
    return true;
}

void PageTable::end_write(size_t index, uint64_t version, const DiskUnit& unit) noexcept {
    {
        const std::lock_guard lock(mutex_);
        const Slot slot = slots_[index].load(std::memory_order_relaxed);
        const bool same = versions_[index].load(std::memory_order_relaxed) == version && slot != 0 && slot != kCold;
        if (unit.exists() && same) {
            units_[index] = unit;
        } else if (unit.exists()) {
            pager_->disk().release(unit, unit_bytes());
        }
    }
    const PageRange range{static_cast<int64_t>(index), 1};
    unpin({&range, 1});
}

bool PageTable::is_in_memory(size_t index, const std::byte** address) const {
    const Slot slot = slots_[index].load(std::memory_order_acquire);
    if (slot == kCold) return false;
    const std::byte* memory = memory_of(slot);
    *address = memory ? memory : zeros_;
    return true;
}

DiskUnit PageTable::unit_of(size_t index) const {
    const std::lock_guard lock(mutex_);
    return units_[index];
}

Status PageTable::begin_read(size_t index, UnitTransfer* transfer) const {
    {
        const std::lock_guard lock(mutex_);
        transfer->unit = units_[index];
    }
    transfer->bytes = unit_bytes();
    return tier_.allocate(page_bytes_, &transfer->memory, false);
}

const std::byte* PageTable::end_read(size_t index, std::byte* memory) const {
    const std::lock_guard lock(mutex_);
    if (const Slot slot = slots_[index].load(std::memory_order_relaxed); slot != kCold) {
        // The same page was asked for twice.
        give_up_read(memory);
        return slot != 0 ? memory_of(slot) : zeros_;
    }
    slots_[index].store(slot_of(memory), std::memory_order_release);
    layout_.fetch_add(1, std::memory_order_release);
    return memory;
}

}  // namespace atlas::kv
