#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "base/status.h"
#include "kv/budget.h"
#include "kv/pager.h"

namespace atlas::runtime {

/**
 * What programs allow their runtimes, of which the budget of KV caches, indexes and memories gets the sum: none of these belongs to one of them. Where the process has a limit of its own
 * (ATLAS_KV_RAM, a share of ATLAS_RAM), the smaller counts. Thread-safe.
 */
class Pools {
public:
    /** `budget` and `pager`, which may hold none, or not yet, outlive it; the budget's limit is the process's. */
    Pools(kv::Budget& budget, const std::unique_ptr<kv::Pager>& pager)
        : budget_(budget), pager_(pager), own_limit_(budget.limit()) {}

    /**
     * Gives `owner` a pool of so many bytes, 0: without a limit, in place of what it had. Where more is in use, pages leave for the disk. Errors: out of memory, with
     * the pools as they were, if that does not suffice. Throws std::bad_alloc.
     */
    Status set(const void* owner, uint64_t bytes);
    /** Takes back what `owner` has. */
    void remove(const void* owner) noexcept;
    /** The process's own limit is another one from now on. What is in use stays. */
    void set_own_limit(uint64_t bytes) noexcept;

private:
    uint64_t limit() const;

    kv::Budget& budget_;
    const std::unique_ptr<kv::Pager>& pager_;
    std::mutex mutex_;
    uint64_t own_limit_;                     // guarded by mutex_
    std::map<const void*, uint64_t> pools_;  // guarded by mutex_
};

}  // namespace atlas::runtime
