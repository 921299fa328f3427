#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "kv/damage.h"
#include "kv/key_rows.h"
#include "kv/page_pins.h"
#include "kv/pager.h"
#include "kv/pages.h"
#include "kv/ram_tier.h"
#include "kv/write_clock.h"

namespace atlas::kv {

/**
 * A tensor whose bytes live in pages of kPageRows consecutive rows. Byte offsets are those of the dense tensor. Pages come into being at
 * their first write; what was never written reads as zero. Addresses are had by pin() and lease() only.
 *
 * Reads, leases and updates of disjoint ranges may run at the same time, and pins with everything. What may take pages away (clear, release,
 * reserve, write, copy, fill) must not run together with leases or reads of tables of the same tier: a host calls these between graphs, a
 * graph between its parallel parts.
 */
class PageTable final : private PageHolder {
public:
    /** `row_bytes` · `rows` bytes; `tier` and `clock` outlive the table. Throws std::bad_alloc. */
    PageTable(RamTier& tier, WriteClock& clock, size_t row_bytes, int64_t rows);
    /** Nothing may be pinned or leased. */
    ~PageTable();
    PageTable(const PageTable&) = delete;
    PageTable& operator=(const PageTable&) = delete;

    size_t row_bytes() const { return row_bytes_; }
    int64_t rows() const { return rows_; }
    size_t bytes() const { return row_bytes_ * static_cast<size_t>(rows_); }
    size_t page_bytes() const { return page_bytes_; }
    int64_t pages() const { return static_cast<int64_t>(slots_.size()); }

    /**
     * Brings pages into memory and keeps them there while `out` lives; what `out` held before is unpinned. May wait for a slower tier. A page that
     * was never written is a page of zeros, also after it comes into being. Pages cleared or released while pinned are given back when they no
     * longer are. Errors, with nothing pinned: a range outside of the table, no room. Throws std::bad_alloc. Thread-safe.
     */
    Status pin(std::span<const PageRange> ranges, Pinned* out, PinMode mode = PinMode::kKeep) const;
    /** One of several pins, of tables of one runtime, that are had together: what has to be read is read at once. */
    struct PinRequest {
        const PageTable* table;
        std::span<const PageRange> ranges;
        Pinned* out;
    };
    /** All or none of them; errors as pin(). */
    static Status pin(std::span<const PinRequest> requests, PinMode mode);
    /** Whether a page needs no reading; may change at any time unless it is pinned. */
    bool is_resident(int64_t page) const {
        return slots_[static_cast<size_t>(page)].load(std::memory_order_acquire) != kCold;
    }
    /** Says that these will be pinned soon. In RAM they are: nothing to do. */
    void prefetch(std::span<const PageRange>) const {}
    /**
     * Memory for writing bytes offset … offset + bytes − 1, all in one page, which keeps its other contents. Errors, with nothing changed: a range
     * outside of a page, out of memory: not after a reserve() of the page. Thread-safe.
     */
    Status lease(size_t offset, size_t bytes, WriteLease* out);

    /**
     * Makes pages exist that can be written without further memory. Where the budget is used up, pages of the tier's tables that hold nothing of
     * use are given back for it (see note_live). Errors, with nothing changed but that: a range outside of the table, out of memory. Throws
     * std::bad_alloc.
     */
    Status reserve(std::span<const PageRange> ranges) { return reserve(ranges, nullptr); }
    /** The same; while `held` lives they stay so, and stay in memory. nullptr: nobody else takes memory meanwhile. */
    Status reserve(std::span<const PageRange> ranges, Pinned* held);
    /**
     * Of this table as K with `v`: rows of single keys beside the pages, for pages that may be on disk. Every cell of both tables begins with the rows of its
     * KV heads. nullptr without a disk. Those of another V or shape than before end. Nothing of them may be pinned then. Throws std::bad_alloc.
     */
    KeyRows* key_rows(const PageTable& v, const KeyRows::Shape& shape) const;
    /** Whether the page will leave memory before those in use: pages have left already, and nobody has used this one for a while. */
    bool is_leaving(int64_t page) const;
    /** Whether pages may leave memory for a disk while nobody pins them. */
    bool is_paged() const { return pager_ != nullptr; }
    /** So many pages take an eighth of the budget, where they can leave memory: more should not be pinned together if it can be helped. */
    int64_t pages_at_once() const;
    /** Whether a lease of the page needs no memory. */
    bool is_reserved(int64_t page) const {
        return is_own(slots_[static_cast<size_t>(page)].load(std::memory_order_acquire));
    }

    /** Copies bytes out; offset + bytes must lie inside the tensor. Errors, with only a part copied: as pin(). Throws std::bad_alloc. */
    Status read(size_t offset, void* destination, size_t bytes) const;
    /** Copies bytes in; zeros make no pages. Errors, with nothing written, but the rows damaged: out of memory. */
    Status write(size_t offset, const void* source, size_t bytes);
    /**
     * As write(), but a page that has these bytes already keeps its version, or stays unmade where they are zeros: a shift of positions goes
     * over every cell of a cache, and most of them may be empty or another sequence's.
     */
    Status update(size_t offset, const void* source, size_t bytes);
    /** Sets bytes. Zeros give whole pages back. Errors: as write(). */
    Status fill(size_t offset, uint8_t value, size_t bytes);
    /**
     * As write(offset, …) of the bytes `from` … of `source`. Inside a table whole pages are not copied but shared until one of both is written; what
     * `source` does not have is given back here. Errors: out of memory, overlapping ranges; the rows are damaged.
     */
    Status copy(size_t offset, const PageTable& source, size_t from, size_t bytes);
    /** Whether no page of the range is there: all of it is zero. */
    bool is_unmade(size_t offset, size_t bytes) const;
    /** Makes the whole tensor zero, gives its pages back and ends all damage. Throws std::bad_alloc, with nothing changed, only if pages are pinned. */
    void clear();
    /** Makes pages zero and gives them back. Ranges must lie inside the table. Throws as clear(). */
    void release(std::span<const PageRange> ranges);

    /**
     * Says that of rows first … end − 1 only those before `live_end` hold anything that anybody will read before it is written anew. Holds for what
     * was written before the present time of the clock; where the budget is used up, such pages are given back.
     */
    void note_live(int64_t first, int64_t live_end, int64_t end);

    /**
     * Ok, or why some rows are not what the host believes: a write(), update(), fill() or copy() failed, and the host could not be told. The rows
     * of its range stay damaged until each was written as a whole, or released, or the table is cleared; a copy of them is damaged, too. Leases
     * that fail damage nothing: who leases has a status to return. Thread-safe.
     */
    Status damage() const;
    bool is_damaged() const { return damaged_.load(std::memory_order_acquire); }
    /** Whether rows first … end − 1 have damage among them. */
    bool is_damaged(int64_t first, int64_t end) const;
    /** For writers that failed half way by other means. Of several reasons, the first is kept. */
    void mark_damaged(size_t offset, size_t bytes, const Status& reason) noexcept;
    /** Says that a lease's user has written all of these bytes. */
    void mend(size_t offset, size_t bytes) noexcept;

    /** Changes whenever a page gets another address than before, by which pin() would give it. */
    uint64_t layout() const { return layout_.load(std::memory_order_acquire); }
    /** Grows whenever a page is written by any path (lease, write, fill, clear, release); what is derived from a page compares it. */
    uint64_t page_version(int64_t index) const {
        return versions_[static_cast<size_t>(index)].load(std::memory_order_relaxed);
    }
    /** Grows whenever a page in kChunkPages·chunk … is written: looking here first saves looking at each. */
    uint64_t chunk_version(int64_t chunk) const {
        return chunk_versions_[static_cast<size_t>(chunk)].load(std::memory_order_relaxed);
    }
    /** Time of the write clock at the page's last write: larger is more recent. */
    uint64_t page_epoch(int64_t index) const {
        return epochs_[static_cast<size_t>(index)].load(std::memory_order_relaxed);
    }
    /** A number that no other table of this process has or had. */
    uint64_t id() const { return id_; }

private:
    friend class Pinned;
    friend class WriteLease;
    friend class Pager;

    /** What a slot holds: the address of a page's memory, 0 for none; with kShared added if other slots may hold it too. */
    using Slot = uintptr_t;
    /** Pins and leases of a table, some of each token: pages not used for so many are in no query's window. */
    static constexpr uint64_t kIdleUses = 16;
    static constexpr Slot kShared = 1;
    /** The page is on disk alone. */
    static constexpr Slot kCold = 2;
    static std::byte* memory_of(Slot slot) { return reinterpret_cast<std::byte*>(slot & ~(kShared | kCold)); }
    static Slot slot_of(std::byte* memory) { return reinterpret_cast<Slot>(memory); }
    static bool is_own(Slot slot) { return slot != 0 && (slot & (kShared | kCold)) == 0; }
    /** With a pager, pins the page: reads must find it in memory. */
    Status hold(size_t index, PinMode mode, Pinned* out) const {
        const PageRange range{static_cast<int64_t>(index), 1};
        return pager_ ? pin({&range, 1}, out, mode) : Status::ok();
    }
    const std::byte* bytes_of(size_t index, const Pinned& held) const {
        return pager_ ? held.page(static_cast<int64_t>(index)) : bytes_of(index);
    }
    /** Of a page that is not cold. */
    const std::byte* bytes_of(size_t index) const {
        const std::byte* memory = memory_of(slots_[index].load(std::memory_order_acquire));
        return memory ? memory : zeros_;
    }
    bool is_absent(size_t index) const { return slots_[index].load(std::memory_order_acquire) == 0; }

    template <typename Visit>
    Status for_each_page(size_t offset, size_t bytes, Visit visit) const;
    bool covers(size_t offset, size_t bytes) const { return bytes <= this->bytes() && offset <= this->bytes() - bytes; }
    void stamp(size_t index) {
        versions_[index].fetch_add(1, std::memory_order_relaxed);
        chunk_versions_[index / kChunkPages].fetch_add(1, std::memory_order_relaxed);
        epochs_[index].store(clock_.now(), std::memory_order_relaxed);
    }
    Status check(const char* operation, std::span<const PageRange> ranges) const;
    /** Memory of a page for writing, made or copied if it is not there or not the page's own. */
    Status own(size_t index, std::byte** memory);
    Status try_reserve(const std::vector<size_t>& pages);
    Status reserve_bytes(size_t offset, size_t bytes);
    Status write_parts(size_t offset, const void* source, size_t bytes);
    Status fill_parts(size_t offset, uint8_t value, size_t bytes);
    /** Ends an operation of the host on bytes: what failed is damaged, what did not is mended. */
    Status finish(size_t offset, size_t bytes, Status status) noexcept;
    Status copy_parts(size_t offset, const PageTable& source, size_t from, size_t bytes);
    void share(size_t to, size_t from);
    bool reclaim() override;
    bool is_needed(size_t index) const;
    // Of those below, callers hold the mutex.
    /** Takes pages out of their slots. */
    void drop(std::span<const PageRange> ranges);
    /** Puts another page into a slot; room for one more in dropped_ was reserved if the page is pinned. */
    void replace(size_t index, Slot slot) noexcept;
    void reserve_dropped(size_t index);
    void unpin(std::span<const PageRange> ranges) const noexcept;
    void give_back(Slot slot) const noexcept;

    // With a pager, in page_table_paging.cpp.
    Status pin_resident(std::span<const PageRange> ranges, PinMode mode, Pinned* out,
                        std::vector<Pager::Missing>* missing) const;
    Status lease_paged(size_t index, size_t inside, WriteLease* out);
    void end_lease(size_t index) noexcept;
    Status reserve_paged(std::span<const PageRange> ranges, Pinned* held);
    /** Forgets what a cold page holds, which is to be written anew as a whole. */
    void forget_cold(size_t index);
    void drop_unit(size_t index) noexcept;  // holding the mutex
    // For the pager, which holds its mutex.
    size_t unit_bytes() const { return tier_.page_size(page_bytes_); }
    double value(size_t index) const;
    template <typename Visit>
    void for_each_evictable(bool clean, Visit visit) const;
    /** Takes the page out of memory, unless that needs a write first or somebody holds it. */
    Leaving leave(size_t index);
    void drop_unneeded();
    /** Holds the page, and gives what is to be written; false when it is not to be. */
    bool begin_write(size_t index, UnitTransfer* transfer, uint64_t* version);
    /** Lets go of it. It is clean if it has not changed since; a unit that is of no use is given back. */
    void end_write(size_t index, uint64_t version, const DiskUnit& unit) noexcept;
    bool is_in_memory(size_t index, const std::byte** address) const;
    DiskUnit unit_of(size_t index) const;
    /** Memory, and where to read from. Errors: out of memory. */
    Status begin_read(size_t index, UnitTransfer* transfer) const;
    void give_up_read(std::byte* memory) const noexcept { tier_.release(memory, page_bytes_); }
    /** Puts what was read where it belongs; its address. */
    const std::byte* end_read(size_t index, std::byte* memory) const;

    RamTier& tier_;
    Pager* const pager_;  // nullptr: pages stay in memory
    WriteClock& clock_;
    const size_t row_bytes_;
    const int64_t rows_;
    const size_t page_bytes_;
    const std::byte* const zeros_;  // page_bytes_, the tier's
    const uint64_t id_;

    mutable std::mutex mutex_;  // guards changes of slots_, and what is marked so
    mutable std::vector<std::atomic<Slot>> slots_;
    mutable std::vector<uint32_t> pins_;  // per page; guarded
    struct Dropped {
        size_t page;
        Slot slot;
    };
    mutable std::unique_ptr<KeyRows>
        rows_of_keys_;                      // with a pager; changes of it and of the next: guarded by the pager's mutex
    mutable uint64_t rows_v_ = 0;           // id of its V
    mutable std::vector<DiskUnit> units_;   // with a pager, of clean and of cold pages; guarded
    mutable std::vector<PageUse> uses_;     // with a pager; guarded
    mutable uint64_t time_ = 0;             // of uses_; guarded
    mutable std::vector<Dropped> dropped_;  // out of their slots while pinned; guarded
    /** How many slots and dropped ones hold a page that is or was shared; guarded. */
    mutable std::unordered_map<const std::byte*, uint32_t> holders_;
    /** Of rows first … end − 1, what note_live() said at a time; guarded. */
    struct Live {
        int64_t first, live_end, end;
        uint64_t time;
    };
    std::vector<Live> live_;
    Damage damage_;  // guarded
    std::atomic<bool> damaged_{false};
    mutable std::atomic<uint64_t> layout_{0};
    std::vector<std::atomic<uint64_t>> versions_;
    std::vector<std::atomic<uint64_t>> chunk_versions_;
    std::vector<std::atomic<uint64_t>> epochs_;
};

template <typename Visit>
void PageTable::for_each_evictable(bool clean, Visit visit) const {
    const std::lock_guard lock(mutex_);
    for (size_t index = 0; index < slots_.size(); ++index) {
        const Slot slot = slots_[index].load(std::memory_order_relaxed);
        if (slot == 0 || slot == kCold || pins_[index] > 0 || (clean && !units_[index].exists() && is_needed(index)))
            continue;
        visit(index, pager_->policy().value(time_, uses_[index]), time_ - uses_[index].last > kIdleUses);
    }
}

}  // namespace atlas::kv
