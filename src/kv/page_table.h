#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "base/status.h"
#include "kv/page_pins.h"
#include "kv/pages.h"
#include "kv/ram_tier.h"
#include "kv/write_clock.h"

namespace atlas::kv {

/**
 * A tensor whose bytes live in pages of kPageRows consecutive rows. Byte offsets are those of the dense tensor. Pages come into being at
 * their first write; what was never written reads as zero. Addresses are had by pin() and lease() only.
 *
 * Reads and writes of disjoint ranges may run at the same time, and pins with all of them. What takes pages away or puts others in their
 * place (clear, release, copy, a fill with zeros of whole pages) must not run together with leases, reads or writes of the same pages.
 */
class PageTable {
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
    Status pin(std::span<const PageRange> ranges, Pinned* out) const;
    /** Says that these will be pinned soon. In RAM they are: nothing to do. */
    void prefetch(std::span<const PageRange>) const {}
    /**
     * Memory for writing bytes offset … offset + bytes − 1, all in one page, which keeps its other contents. Errors, with nothing changed: a range
     * outside of a page, out of memory. Thread-safe.
     */
    Status lease(size_t offset, size_t bytes, WriteLease* out);

    /** Copies bytes out; offset + bytes must lie inside the tensor. */
    void read(size_t offset, void* destination, size_t bytes) const;
    /** Copies bytes in. Errors: out of memory; what was written before the error stays, and the table is damaged. */
    Status write(size_t offset, const void* source, size_t bytes);
    /**
     * As write(), but a page that has these bytes already keeps its version, or stays unmade where they are zeros: a shift of positions goes
     * over every cell of a cache, and most of them may be empty or another sequence's.
     */
    Status update(size_t offset, const void* source, size_t bytes);
    /** Sets bytes. Zeros give whole pages back. Over the whole tensor it ends damage. Errors: as write(). */
    Status fill(size_t offset, uint8_t value, size_t bytes);
    /** Whether no page of the range is there: all of it is zero. */
    bool is_unmade(size_t offset, size_t bytes) const;
    /** Makes the whole tensor zero, gives its pages back and ends damage. Throws std::bad_alloc, with nothing changed, only if pages are pinned. */
    void clear();
    /** Makes pages zero and gives them back. Ranges must lie inside the table. Throws as clear(). */
    void release(std::span<const PageRange> ranges);

    /**
     * Ok, or why the contents are not what the host believes: a write of its data failed and it could not be told. Stays so until clear() or a
     * fill of the whole tensor. Leases do not count: who leases has a status to return. Thread-safe.
     */
    Status damage() const;
    bool is_damaged() const { return damaged_.load(std::memory_order_acquire); }
    /** For writers that failed half way by other means than write(), update() and fill(). The first reason is kept. */
    void mark_damaged(const Status& reason) noexcept;

    /**
     * FOR THE TRANSITION to pin(), and to be removed with its last caller: memory of a page that nothing keeps from being given back. Valid until
     * layout() changes.
     */
    const std::byte* resident(int64_t page) const {
        const std::byte* memory = memory_of(slots_[static_cast<size_t>(page)].load(std::memory_order_acquire));
        return memory ? memory : zeros_;
    }

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
    /** A number that no other table with the same clock has or had. */
    uint64_t id() const { return id_; }

private:
    friend class Pinned;
    friend class WriteLease;

    /** What a slot holds: the address of a page's memory, 0 for none. */
    using Slot = uintptr_t;
    static std::byte* memory_of(Slot slot) { return reinterpret_cast<std::byte*>(slot); }
    static Slot slot_of(std::byte* memory) { return reinterpret_cast<Slot>(memory); }

    template <typename Visit>
    Status for_each_page(size_t offset, size_t bytes, Visit visit) const;
    bool covers(size_t offset, size_t bytes) const { return bytes <= this->bytes() && offset <= this->bytes() - bytes; }
    void stamp(size_t index) {
        versions_[index].fetch_add(1, std::memory_order_relaxed);
        chunk_versions_[index / kChunkPages].fetch_add(1, std::memory_order_relaxed);
        epochs_[index].store(clock_.now(), std::memory_order_relaxed);
    }
    /** Memory of a page for writing, made if it is not there. */
    Status own(size_t index, std::byte** memory);
    Status write_parts(size_t offset, const void* source, size_t bytes);
    /** Takes pages out of their slots. */
    void drop(std::span<const PageRange> ranges);
    void unpin(std::span<const PageRange> ranges) const noexcept;
    void give_back(Slot slot) const noexcept;

    RamTier& tier_;
    WriteClock& clock_;
    const size_t row_bytes_;
    const int64_t rows_;
    const size_t page_bytes_;
    const std::byte* const zeros_;  // page_bytes_, the tier's
    const uint64_t id_;

    mutable std::mutex mutex_;  // guards changes of slots_, and what is marked so
    std::vector<std::atomic<Slot>> slots_;
    mutable std::vector<uint32_t> pins_;  // per page; guarded
    struct Dropped {
        size_t page;
        Slot slot;
    };
    mutable std::vector<Dropped> dropped_;  // out of their slots while pinned; guarded
    Status damage_;                         // guarded
    std::atomic<bool> damaged_{false};
    std::atomic<uint64_t> layout_{0};
    std::vector<std::atomic<uint64_t>> versions_;
    std::vector<std::atomic<uint64_t>> chunk_versions_;
    std::vector<std::atomic<uint64_t>> epochs_;
};

}  // namespace atlas::kv
