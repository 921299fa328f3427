#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kv/pages.h"

namespace atlas::kv {

class PageTable;

/** What becomes of pages that have to be read for a pin. */
enum class PinMode {
    kKeep,      ///< they stay in memory, until others are needed more
    kThrough,   ///< they are copies of the pin, and go with it: for what is read once in a while and all of it
    kAside,     ///< as kThrough, and it does not count as a use of the pages: for what has them elsewhere afterwards
    kResident,  ///< none is read: the pin fails; no use either
};

/**
 * Pages of one table that are in memory and stay there, with the contents of the time of PageTable::pin() or written later, until this ends
 * or is given to another pin(). The table outlives it. page() may be called by several threads; everything else by one at a time.
 */
class Pinned {
public:
    Pinned() = default;
    ~Pinned() { unpin(); }
    Pinned(Pinned&& other) noexcept;
    Pinned& operator=(Pinned&& other) noexcept;

    /** Memory of page `index`, one of those asked for: the whole page, rows behind the end of the table included. */
    const std::byte* page(int64_t index) const {
        assert(is_pinned(index));
        return addresses_[static_cast<size_t>(index - first_)];
    }
    bool is_pinned(int64_t index) const {
        const int64_t at = index - first_;
        return at >= 0 && at < static_cast<int64_t>(addresses_.size()) &&
               addresses_[static_cast<size_t>(at)] != nullptr;
    }
    /** Ends it early; room for addresses is kept for another pin(). */
    void unpin() noexcept;

private:
    friend class PageTable;
    friend class Pager;
    const PageTable* table_ = nullptr;         // nullptr: nothing is pinned
    int64_t first_ = 0;                        // page of addresses_[0]
    std::vector<const std::byte*> addresses_;  // dense: looking a page up is one load; nullptr: not pinned
    std::vector<PageRange> ranges_;
    std::vector<std::byte*> frames_;  // read through: the pin's own
};

/**
 * Memory of some bytes of one page for writing. The page's version changes when the lease begins and again when it ends, so whoever looks at
 * versions before and after reading sees every write. Several leases of a page may exist at a time for writes that do not overlap. While it
 * lasts, the table must not be cleared, nor the page released. Movable; used by one thread at a time.
 */
class WriteLease {
public:
    WriteLease() = default;
    ~WriteLease() { end(); }
    WriteLease(WriteLease&& other) noexcept;
    WriteLease& operator=(WriteLease&& other) noexcept;

    /** The first leased byte; nullptr without a lease. */
    std::byte* data() const { return data_; }
    void end() noexcept;

private:
    friend class PageTable;
    PageTable* table_ = nullptr;
    size_t page_ = 0;
    std::byte* data_ = nullptr;
};

}  // namespace atlas::kv
