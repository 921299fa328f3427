#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/status.h"
#include "kv/budget.h"

namespace atlas::kv {

class Pager;
class RowCache;

/** Who holds pages of a tier, and may hold some that nobody needs. */
class PageHolder {
public:
    /** Gives back pages that hold nothing of use. Whether any memory came back. */
    virtual bool reclaim() = 0;

protected:
    ~PageHolder() = default;
};

/**
 * RAM for pages: slabs of 4 MiB (huge pages where the kernel gives them) cut into pages, returned pages reused by size. What is handed out
 * counts in a budget, which may be shared. Thread-safe.
 */
class RamTier {
public:
    /** `budget` and the pager outlive the tier. With a pager, pages move between memory and disk, and are aligned for direct transfers. */
    explicit RamTier(Budget& budget, Pager* pager = nullptr);
    ~RamTier();
    RamTier(const RamTier&) = delete;
    RamTier& operator=(const RamTier&) = delete;

    Pager* pager() const { return pager_; }
    /** The cache of rows of such a size, with a pager; nullptr where a page of `frame_bytes` holds none. Throws std::bad_alloc. */
    RowCache* row_cache(size_t row_bytes, size_t frame_bytes);
    /** What a page of `bytes` bytes takes: with what aligns the next one. */
    size_t page_size(size_t bytes) const;

    /** A zeroed page of `bytes` bytes, 64-byte aligned; not zeroed where `zeroed` is false. Errors: out of memory, naming budget and use. May throw std::bad_alloc for the message only. */
    Status allocate(size_t bytes, std::byte** page, bool zeroed = true);
    /** Gives a page of `bytes` bytes, as asked of allocate(), back. */
    void release(std::byte* page, size_t bytes) noexcept;

    /**
     * At least `bytes` zeros, which cannot be written; the same ones for all pages that are not there. They cost address space and count in no
     * budget. Valid as long as the tier. Throws std::bad_alloc.
     */
    const std::byte* zeros(size_t bytes);

    const Budget& budget() const { return budget_; }

    /** Whom reclaim() asks, from now until remove(). Throws std::bad_alloc. */
    void add(PageHolder* holder);
    void remove(PageHolder* holder) noexcept;
    /** Asks all holders to give back what they do not need. Whether any memory came back. */
    bool reclaim();

private:
    struct Area {
        std::byte* memory;
        size_t bytes;
    };
    struct Pages {
        std::vector<std::byte*> free;
        size_t cut = 0;  ///< made so far; `free` has room for all of them
    };
    std::byte* cut(size_t bytes, bool zeroed);
    /** Maps memory and keeps it in `areas`. Throws std::bad_alloc. */
    static std::byte* map(size_t bytes, int protection, std::vector<Area>* areas);

    Budget& budget_;
    Pager* const pager_;
    std::mutex holders_mutex_;
    std::vector<PageHolder*> holders_;  // guarded by holders_mutex_

    std::mutex mutex_;  // guards all below; taken last of all mutexes
    std::vector<Area> slabs_;
    size_t slab_used_ = 0;
    std::map<size_t, Pages> pages_;                           // by size
    std::map<size_t, std::unique_ptr<RowCache>> row_caches_;  // by size of their rows; guarded by the pager's mutex
    std::vector<Area> zeros_;                                 // the last is the largest; earlier ones may be in use
};

}  // namespace atlas::kv
