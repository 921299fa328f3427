#pragma once

#include <ggml.h>

#include <atomic>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/status.h"
#include "kv/page_table.h"

namespace atlas::host {

/** Where a tensor of one of our buffers lies: in pages, or in ordinary memory. */
struct Placement {
    kv::PageTable* pages = nullptr;  ///< nullptr: ordinary memory at tensor->data
    size_t offset = 0;               ///< first byte of the tensor inside `pages`
};

/**
 * The address range of one buffer, reserved and inaccessible at first. Caches keep their addresses in it as names only, their bytes lie in the
 * pages of a table; the parts of other tensors are made ordinary memory. Which is which is found by address: what a tensor says about itself
 * (`extra`) is not trusted, as a tensor may have been made from a message or copied. Thread-safe.
 */
class OwnerMemory {
public:
    /** Reserves a range of `bytes` bytes. `budget`, `pager`, which may be null, and `clock` outlive it. Errors: see base(). */
    OwnerMemory(size_t bytes, kv::Budget& budget, kv::Pager* pager, kv::WriteClock& clock);
    ~OwnerMemory();
    OwnerMemory(const OwnerMemory&) = delete;
    OwnerMemory& operator=(const OwnerMemory&) = delete;

    /** Start of the range; nullptr when the system had none left. */
    std::byte* base() const { return base_; }
    size_t size() const { return reserved_; }
    bool contains(const void* address, size_t bytes) const;

    /** Makes the whole range ordinary memory. False when the system has none. */
    bool open_all();
    /**
     * Gives a tensor that was put into the range its pages or its memory: from now on it owns its bytes of the range, and tables that it overlaps
     * end. The same cache in the same place keeps its table. `page_all`: whether to page what is not named like a cache too. Throws std::bad_alloc.
     */
    Status add(const ggml_tensor* tensor, bool page_all);
    /**
     * Where a tensor lies. If nobody added it or the tensor that it views, that is done first, as long as no table would end by it. Errors: it is not
     * inside the range, no memory. Throws std::bad_alloc.
     */
    Status find(const ggml_tensor* tensor, bool page_all, Placement* out);
    /** Sets every byte that belongs to a tensor, or all when none does. The first error is returned, and the rest is done. */
    Status fill(uint8_t value);

private:
    /** Bytes of the range that belong to one tensor. */
    struct Region {
        const std::byte* begin;
        const std::byte* end;
        kv::PageTable* table;  ///< nullptr: ordinary memory
    };
    using Regions = std::vector<Region>;  // in order of addresses, without overlap
    /** The pages of a cache, and what they will take of the budget. */
    struct Table {
        Table(kv::Budget& budget, kv::RamTier& tier, kv::WriteClock& clock, const ggml_tensor* tensor);
        kv::PageTable pages;
        kv::Claim claim;
    };

    const Regions& regions();
    static const Region* region_at(const Regions& regions, const std::byte* address);
    Status open(std::byte* begin, size_t bytes);
    Status add_locked(const ggml_tensor* tensor, bool page_all);
    Status add_ordinary(const ggml_tensor* tensor);
    bool overlaps_table(const std::byte* begin, size_t bytes) const;
    bool forget_overlapping(const std::byte* begin, size_t bytes);
    void changed() { published_.store(nullptr, std::memory_order_release); }

    kv::Budget& budget_;
    kv::WriteClock& clock_;
    kv::RamTier tier_;
    std::byte* base_ = nullptr;
    size_t reserved_ = 0;

    std::mutex mutex_;                                           // guards changes of all below
    std::atomic<bool> all_ordinary_{false};                      // all but the tables' regions
    std::map<const std::byte*, std::unique_ptr<Table>> tables_;  // by address
    std::map<const std::byte*, size_t> ordinary_;                // opened one by one, while all_ordinary_ is false
    // What find() looks into without a lock: made anew after changes. Earlier ones stay, as another thread may still look into them.
    std::atomic<const Regions*> published_{nullptr};
    std::vector<std::unique_ptr<const Regions>> made_;
};

}  // namespace atlas::host
