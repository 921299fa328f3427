#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/status.h"
#include "kv/budget.h"
#include "kv/disk_tier.h"
#include "kv/eviction.h"
#include "kv/page_pins.h"

namespace atlas::kv {

class PageTable;

/** What came of asking a page to leave memory. */
enum class Leaving { kGone, kBusy, kDirty };

struct PagerStats {
    uint64_t hits = 0;    ///< pages that were asked for and in memory
    uint64_t misses = 0;  ///< that had to be read
    uint64_t waits = 0;   ///< times that pages were read: all misses of a pin together
    uint64_t evictions = 0;
    uint64_t refusals = 0;  ///< times that no room could be made
    DiskStats disk;
};

/**
 * Moves pages of all tables of a runtime between memory and disk, so that they stay within their budget. A page that leaves memory is written first, unless
 * the disk has it as it is. Writes go ahead of need. What cannot be written stays in memory: nothing is lost, and where no room can be made whoever needs it
 * is told why. Thread-safe; the lock order is pager, table, tier.
 */
class Pager {
public:
    /** Makes room in `budget` where its users ask for it (Budget::reserve_or_relieve); the budget outlives the pager. */
    Pager(Budget& budget, std::unique_ptr<DiskTier> disk, const EvictionPolicy& policy);
    ~Pager();
    Pager(const Pager&) = delete;
    Pager& operator=(const Pager&) = delete;

    const EvictionPolicy& policy() const { return policy_; }
    DiskTier& disk() { return *disk_; }
    const DiskTier& disk() const { return *disk_; }
    PagerStats stats() const;
    /** {"hits": …}: stats(), sizes in bytes, times in seconds. */
    std::string json() const;

    // For tables.

    /** A page of a pin that is on disk alone. */
    struct Missing {
        const PageTable* table;
        size_t page;
        const std::byte** address;  ///< where pin() puts it
        Pinned* pinned;
    };
    void add(PageTable* table);
    /** Waits for what is under way. */
    void remove(PageTable* table) noexcept;
    /**
     * Reads pages, which are pinned, all at once. kKeep: they stay in their tables; kThrough: copies of them belong to the pins, but for those for which there
     * is room. Errors, with no page read: of reading; no room. Throws std::bad_alloc.
     */
    Status load(const std::vector<Missing>& missing, PinMode mode);
    /** Makes a page its table's own, as PageTable::own(), making room for it. */
    Status own(PageTable* table, size_t page);
    /** Makes room for so many bytes. Errors: nothing more can leave memory, and why. Throws std::bad_alloc. */
    Status make_room(uint64_t bytes);
    /** Whoever takes pages away holds this. */
    std::unique_lock<std::mutex> exclusive() { return std::unique_lock(mutex_); }
    void count_hits(uint64_t pages) { hits_.fetch_add(pages, std::memory_order_relaxed); }

private:
    struct Victim {
        PageTable* table;
        size_t page;
        double value;
    };
    struct Write {
        UnitTransfer transfer;
        PageTable* table = nullptr;
        size_t page = 0;
        uint64_t version = 0;
    };
    // Of all below, callers hold the mutex.
    Status make_room_locked(uint64_t bytes);
    Status load_locked(const std::vector<Missing>& missing, PinMode mode);
    bool has_room(uint64_t bytes) const;
    /** `clean`: only pages that leave without a write. */
    void find_victims(bool clean);
    enum class Writing { kStarted, kBusy, kRefused };
    Writing begin_write(const Victim& victim);
    /** Takes writes that are done; their pages are clean then, or as before. Whether any was. */
    bool finish_writes(bool wait, bool evict);
    void note_failure(const Status& status);
    void write_ahead();

    Budget& budget_;
    const EvictionPolicy& policy_;
    std::unique_ptr<DiskTier> disk_;

    std::mutex mutex_;  // guards all below, and calls of disk_'s transfers
    std::vector<PageTable*> tables_;
    std::vector<Victim> victims_;  // ascending by value
    size_t next_victim_ = 0;
    double cutoff_ = 0.0;  // what is worth more than this was used since victims_ was made
    std::vector<std::unique_ptr<Write>> writes_, spare_;
    std::vector<UnitTransfer*> done_;
    std::vector<UnitTransfer> reads_;
    uint64_t most_through_ = 0;  // bytes of one pin that were read through
    Status last_failure_;
    int failures_ = 0;  // of writes, one after the other

    std::atomic<uint64_t> hits_{0}, misses_{0}, waits_{0}, evictions_{0}, refusals_{0};
};

}  // namespace atlas::kv
