#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "kv/disk_tier.h"
#include "kv/pages.h"
#include "kv/row_cache.h"

namespace atlas::kv {

class KeyRows;

/** Rows that are in memory and stay where they are until this ends. Used by one thread at a time; KeyRows outlives it. */
class PinnedRows {
public:
    PinnedRows() = default;
    ~PinnedRows() { unpin(); }
    PinnedRows(const PinnedRows&) = delete;
    PinnedRows& operator=(const PinnedRows&) = delete;

    /** K row of the i-th cell that was asked for, its V row KeyRows::Shape::k_bytes behind it. */
    const std::byte* row(size_t i) const { return rows_[i]; }
    void unpin() noexcept;

private:
    friend class KeyRows;
    KeyRows* owner_ = nullptr;
    std::vector<uint32_t> slots_;
    std::vector<const std::byte*> rows_;
};

/**
 * Single keys of a K and a V table whose pages may be on disk: selection wants a few keys of nearly every page, so for it each page lies on disk a second time,
 * KV head by KV head and V beside K, in units of a few keys that are read alone. What was read of them stays in a RowCache, key by key. A page is stored
 * here when it was first selected from on disk, and counts as long as both tables have the versions that were stored. Thread-safe: everything happens under the
 * pager's mutex.
 */
class KeyRows {
public:
    struct Shape {
        int64_t heads = 0;                ///< KV heads
        size_t k_bytes = 0, v_bytes = 0;  ///< of one head's row
        bool operator==(const Shape&) const = default;
    };
    struct Version {
        uint64_t k = 0, v = 0;
        bool operator==(const Version&) const = default;
    };
    /** Rows of one head of a page in a table's memory: [kPageRows], `stride` bytes apart. */
    struct Source {
        const std::byte* rows;
        int64_t head_stride, stride;
    };
    /** Some cells of one page and KV head. With `k` and `v` the page is pinned, and what is missing is copied from there instead of read. */
    struct Wanted {
        int64_t page, head;
        uint64_t cells;
        const Source* k = nullptr;
        const Source* v = nullptr;
    };

    KeyRows(Pager& pager, RowCache& cache, const Shape& shape, int64_t pages);
    /** Nothing may be pinned. */
    ~KeyRows();
    KeyRows(const KeyRows&) = delete;
    KeyRows& operator=(const KeyRows&) = delete;

    /** Bytes of a row in the cache. */
    static size_t row_bytes(const Shape& shape) { return (shape.k_bytes + shape.v_bytes + 15) / 16 * 16; }

    const Shape& shape() const { return shape_; }
    /** Whether the page, as it is now, can be read key by key. */
    bool is_stored(int64_t page, const Version& version) const {
        const Page& known = pages_[static_cast<size_t>(page)];
        return known.state != State::kAbsent && known.version == version;
    }
    /**
     * Stores a page that is pinned; it may be read from then on, and is absent again if the write fails. Not an error where memory or disk have no room: the
     * page stays absent. Throws std::bad_alloc.
     */
    void store(int64_t page, const Version& version, const Source& k, const Source& v);
    /**
     * Brings cells of stored pages into memory: what is not in the cache is read at once. `out` has them in the order of `wanted` and of their bits. Errors,
     * with nothing pinned: of reading, and pages that could not be read or written are absent from then on; kOutOfMemory where the cache has no room for all
     * of them. Throws std::bad_alloc.
     */
    Status pin(std::span<const Wanted> wanted, PinnedRows* out);

    // For tables and the pager, which hold its mutex.
    /** Nothing of the page may be pinned. */
    void forget(int64_t page) noexcept;
    void end_write(int64_t page, const DiskUnit& region, bool good) noexcept;

private:
    friend class PinnedRows;
    enum class State : uint8_t { kAbsent, kWriting, kStored };
    struct Page {
        Version version;
        State state = State::kAbsent;
        DiskUnit region;                        // of all units of the page
        std::unique_ptr<uint64_t[]> checksums;  // per unit: [head][unit]
        std::unique_ptr<uint32_t[]> slots;      // of the cache: [head][cell]; nullptr: none
    };
    class Places final : public RowCache::Owner {
    public:
        explicit Places(KeyRows& rows) : rows_(rows) {}
        void row_left(uint32_t place) noexcept override { *rows_.slot_of(place) = RowCache::kNone; }
        void row_moved(uint32_t place, uint32_t slot) noexcept override { *rows_.slot_of(place) = slot; }

    private:
        KeyRows& rows_;
    };
    /** A row that has to be read: the i-th of those asked for. */
    struct Missing {
        size_t i;
        uint32_t place, slot;
    };
    size_t cells_of_page() const { return static_cast<size_t>(shape_.heads * kPageRows); }
    uint32_t* slot_of(uint32_t place) { return &pages_[place / cells_of_page()].slots[place % cells_of_page()]; }
    size_t units_of_page() const { return static_cast<size_t>(shape_.heads) * units_per_head_; }
    void finish_writing(std::span<const Wanted> wanted);
    void copy_row(const Wanted& from, size_t cell, std::byte* row) const;
    Status pin_locked(std::span<const Wanted> wanted, PinnedRows* out);
    Status read(std::span<const Missing> missing);
    void fill(const Page& page, std::byte* region, const Source& k, const Source& v) const;

    Pager& pager_;
    RowCache& cache_;
    const Shape shape_;
    const size_t row_bytes_;
    const size_t unit_bytes_;
    const size_t keys_per_unit_, units_per_head_;
    Places places_;
    uint16_t number_ = 0;
    std::vector<Page> pages_;
    std::vector<Missing> missing_;
    std::vector<int64_t> bad_;  // pages of which a unit could not be read
    std::vector<UnitTransfer> reads_;
    std::vector<UnitTransfer*> wanted_reads_;
};

}  // namespace atlas::kv
