#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/status.h"
#include "io/block_io.h"
#include "io/disk_queue.h"
#include "weights/chunks.h"

namespace atlas::weights {

struct ReaderSettings {
    size_t slots = 16;
    size_t slot_bytes = size_t{2} << 20;  ///< a multiple of io::kIoAlignment; no chunk has more
    std::string faults;                   ///< of ATLAS_TEST_FAULTS, as io::parse_faults() takes it
    std::shared_ptr<io::DiskQueue> queue = nullptr;  ///< with what others have under way on the disk; nullptr: alone
    bool uring = true;                    ///< false: one read after the other, as where there is no io_uring
    double patience_seconds = 30;         ///< without an answer to a read a pass fails
};

struct ReaderStats {
    uint64_t reads = 0, read_bytes = 0;  ///< that succeeded
    uint64_t retries = 0, failures = 0;  ///< reads that were tried again, and those that failed then too
    uint64_t asked = 0, waits = 0;       ///< shares of chunks that were asked for, and those that were not there yet
    double wait_seconds = 0;             ///< of all threads together
    double busy_seconds = 0;             ///< in which at least one read was under way
};

/**
 * Reads chunks in the order in which they will be used, ahead of their use: those that have memory of their own once, the others each time into a slot
 * of a ring, which is free again when its chunk was used. A pass is one such order; behind its end reading goes on with the chunks of the pass that is
 * expected next. A thread of its own hands reads to the system, several at a time.
 *
 * begin() and forget() while nothing is asked for; wait() and done() by any thread.
 */
class Reader {
public:
    /** Errors: the text of the faults. Throws std::bad_alloc, std::system_error (no thread). */
    static Status open(const ReaderSettings& settings, std::unique_ptr<Reader>* out);
    /** Waits for reads that are under way. */
    ~Reader();
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;

    /** A new pass. Both lists live until the next one, or until forget(). */
    void begin(std::span<Chunk* const> order, std::span<Chunk* const> following);
    /**
     * The first row of a chunk of this pass, valid until all of its rows are done; nullptr when the pass has failed (status()). Chunks must be asked for
     * so that those which come first in the order are done first, whatever happens to others: the ring has no room for all.
     */
    const std::byte* wait(Chunk& chunk);
    /** The same without waiting: nullptr when it is not there. */
    static const std::byte* peek(const Chunk& chunk) {
        const std::byte* at = chunk.at.load(std::memory_order_acquire);
        return at ? at + chunk.head : nullptr;
    }
    /** So many rows will not be looked at any more in this use. */
    void done(Chunk& chunk, int64_t rows);
    /**
     * Chunks that have memory of their own and are needed now, in this order: before all that is read ahead. Until the next begin(), or forget(). Those
     * that are there, or are being read, are left as they are. Throws std::bad_alloc.
     */
    void read_now(std::span<Chunk* const> chunks);
    /** Chunks get memory of their own, one behind the other. */
    void give(std::span<Chunk> chunks, std::byte* memory);
    /** They give it back; false, and nothing has changed, while one of them is being read. */
    bool release(std::span<Chunk> chunks);
    /** Waits for what read_now() had begun for an earlier pass; false: no answer. */
    bool settle();
    /** Why this pass has failed, or ok. */
    Status status() const;

    /** Nothing is read any more for chunks of anything: false when reads that are under way get no answer; chunks, their memory and this must then stay. */
    bool forget();

    ReaderStats stats() const;
    bool is_parallel() const { return depth_ > 1; }

private:
    static constexpr uint64_t kNever = ~uint64_t{0};
    // Enough that the device always has the next ones; with more, those that are needed first would wait for those behind.
    static constexpr size_t kDepth = 8;
    static constexpr int kSlices = 30;

    struct Slot {
        std::byte* memory = nullptr;
        Chunk* chunk = nullptr;  // nullptr: free, or what is being read there is not wanted any more
        uint64_t turn = kNever;  // of its use
        bool reading = false;
    };
    struct Read {
        io::IoRequest request;
        Chunk* chunk = nullptr;
        int32_t slot = -1;  // -1: into memory of its own
        bool retried = false;
        bool now = false;  // of read_now()
    };
    struct Unmap {
        size_t bytes;
        void operator()(std::byte* memory) const;
    };

    explicit Reader(const ReaderSettings& settings);
    void work();
    Chunk* next_now();
    Chunk* next_ahead();
    void start(Chunk* chunk, Read* read);
    /** Whether it is done; else it is to be handed in once more. */
    bool finish(Read* read);
    void fail(const Read& read);
    void free_slot(int32_t slot);
    /** Whether the condition came true, of which arrived_ tells, before patience ended. */
    template <class Condition>
    bool wait_patiently(std::unique_lock<std::mutex>& lock, const Condition& condition);

    const ReaderSettings settings_;
    std::unique_ptr<std::byte[], Unmap> ring_{nullptr, Unmap{0}};
    std::unique_ptr<io::BlockIo> io_;  // of the thread
    size_t depth_ = kDepth;
    std::array<Read, kDepth> reads_;  // the requests in them: of the thread

    mutable std::mutex mutex_;  // guards what follows, and in chunks: slot, reading, changes of `at`
    std::condition_variable work_, arrived_;
    std::vector<Slot> slots_;
    std::vector<int32_t> free_slots_;
    std::vector<Read*> free_reads_;
    std::span<Chunk* const> order_, following_;
    uint64_t first_turn_ = 0;  // of order_
    size_t position_ = 0;      // in both, of what is to be read next
    std::deque<Chunk*> now_;   // of read_now(), to be read
    size_t under_way_now_ = 0;
    std::vector<Chunk*> failed_;
    std::string why_;  // of the last failure
    Status status_;
    bool stop_ = false, broken_ = false;
    ReaderStats stats_;
    std::atomic<uint64_t> asked_{0};
    std::thread thread_;
};

}  // namespace atlas::weights
