#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "kv/budget.h"
#include "kv/disk_tier.h"
#include "kv/eviction.h"
#include "kv/page_pins.h"
#include "kv/row_cache.h"

namespace atlas::kv {

class KeyRows;
class PageTable;

/** What came of asking a page to leave memory. */
enum class Leaving { kGone, kBusy, kDirty };

struct PagerStats {
    uint64_t hits = 0;    ///< pages that were asked for and in memory
    uint64_t misses = 0;  ///< that had to be read
    uint64_t waits = 0;   ///< times that pages were read: all misses of a pin together
    uint64_t evictions = 0;
    uint64_t refusals = 0;                  ///< times that no room could be made
    uint64_t ahead_reads = 0;  ///< pages that were read before anybody asked for them
    uint64_t ahead_hits = 0;   ///< those that somebody asked for then
    uint64_t row_hits = 0, row_misses = 0;  ///< single keys of a KV head that were asked for
    uint64_t row_reads = 0;                 ///< units of such keys that were read
    uint64_t row_bytes = 0;                 ///< of memory that holds them now
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
    /** false: nothing more is written to disk until it is true again; what is there can be read. */
    void set_sending(bool sending) { sending_.store(sending, std::memory_order_relaxed); }
    bool sending() const { return sending_.load(std::memory_order_relaxed); }
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
    /** Whether memory ever had no room. */
    bool is_short() const { return evictions_.load(std::memory_order_relaxed) > 0; }
    void count_hits(uint64_t pages) { hits_.fetch_add(pages, std::memory_order_relaxed); }

    // For rows of single keys, which hold exclusive().
    void add(RowCache* cache);
    void remove(RowCache* cache) noexcept;
    /** As make_room(), but only pages leave that nobody has used for a while; whether there is room. Throws std::bad_alloc. */
    bool make_idle_room(uint64_t bytes);
    bool make_any_room(uint64_t bytes) { return make_room_locked(bytes).is_ok(); }
    /** Waits until nothing is being written. */
    void finish_all_writes() noexcept;
    /** Memory and a place on disk for a page's units of keys; nullptr where one of both has no room. Throws std::bad_alloc. */
    std::byte* begin_rows(size_t bytes, DiskUnit* region);
    /** Gives a place on disk of begin_rows() back. */
    void release_rows(const DiskUnit& region, size_t bytes) noexcept;
    /** Starts writing what begin_rows() gave; `rows` is told when that is done (KeyRows::end_write). */
    void write_rows(KeyRows* rows, int64_t page);
    /** Memory to read units of some size into, as many as may be under way. Errors: no room. Throws std::bad_alloc. */
    Status read_buffer(size_t unit_bytes, std::span<std::byte>* buffer);
    void read_rows(std::span<UnitTransfer* const> reads);
    void count_rows(uint64_t hits, uint64_t misses);

private:
    struct Victim {
        PageTable* table;
        size_t page;
        double value;
        bool idle;  // not used for a while
    };
    struct Free {
        void operator()(std::byte* memory) const;
    };
    using Buffer = std::unique_ptr<std::byte[], Free>;
    static Buffer allocate(size_t bytes);
    struct Write {
        UnitTransfer transfer;
        PageTable* table = nullptr;
        size_t page = 0;
        uint64_t version = 0;
        KeyRows* rows = nullptr;  // it is a page of theirs, and `memory` holds it
        Buffer memory;
    };
    // Of all below, callers hold the mutex.
    Status make_room_locked(uint64_t bytes);
    bool give_back_rows(uint64_t bytes);
    bool has_spare_disk(uint64_t bytes) const;
    std::unique_ptr<Write> new_write();
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

    // Reading ahead, in pager_ahead.cpp.
    struct Place {
        const PageTable* table = nullptr;
        size_t page = 0;
        bool operator<(const Place& other) const {
            return table != other.table ? std::less<>()(table, other.table) : page < other.page;
        }
    };
    /** Bytes that reading ahead may take. */
    uint64_t room_ahead() const;
    /** What was read ahead of this page, if it is what the page has; it is out of ahead_ then. */
    std::unique_ptr<UnitTransfer> take_ahead(const Missing& page);
    /** Begins to read what followed this load the last time, and remembers what follows now. */
    void read_ahead(const std::vector<Missing>& missing);
    /** Gives back what was read and not wanted, after waiting for it. Whether there was any. */
    bool drop_ahead() noexcept;

    Budget& budget_;
    const EvictionPolicy& policy_;
    std::unique_ptr<DiskTier> disk_;

    mutable std::mutex mutex_;  // guards all below, and calls of disk_'s transfers
    std::vector<PageTable*> tables_;
    std::vector<Victim> victims_;  // ascending by value
    size_t next_victim_ = 0;
    double cutoff_ = 0.0;  // what is worth more than this was used since victims_ was made
    std::vector<std::unique_ptr<Write>> writes_, spare_;
    std::vector<UnitTransfer*> done_;
    uint64_t most_through_ = 0;  // bytes of one pin that were read through
    std::map<Place, std::unique_ptr<UnitTransfer>> ahead_;
    std::map<Place, std::vector<Place>> follows_;  // by a load's first page: the pages of the load after it
    Place last_through_;
    uint64_t ahead_bytes_ = 0;
    std::vector<RowCache*> row_caches_;
    int looks_spared_ = 0;         // of make_idle_room(), since the last one found nothing
    std::unique_ptr<Write> rows_;  // between begin_rows() and write_rows()
    size_t row_writes_ = 0;        // of writes_
    uint64_t rows_on_disk_ = 0;
    Buffer buffer_;  // of read_buffer()
    size_t buffer_bytes_ = 0;
    Status last_failure_;
    int failures_ = 0;  // of writes, one after the other

    std::atomic<bool> sending_{true};
    std::atomic<uint64_t> hits_{0}, misses_{0}, waits_{0}, evictions_{0}, refusals_{0};
    std::atomic<uint64_t> ahead_reads_{0}, ahead_hits_{0};
    std::atomic<uint64_t> row_hits_{0}, row_misses_{0}, row_reads_{0};
};

}  // namespace atlas::kv
