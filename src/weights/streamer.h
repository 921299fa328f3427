#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>

#include "base/status.h"
#include "io/disk_queue.h"
#include "weights/plan.h"
#include "weights/reader.h"

namespace atlas::weights {

struct StreamerSettings {
    uint64_t ram = 0;    ///< bytes that weights may take: those that stay, and the ring
    std::string faults;  ///< of ATLAS_TEST_FAULTS
    bool uring = true;   ///< false: one read after the other, as where there is no io_uring
    double patience_seconds = 30;
    std::string name = "ATLAS_WEIGHTS_RAM";  ///< what a user bounds these bytes by, for messages
    std::shared_ptr<io::DiskQueue> queue = nullptr;  ///< with what others have under way on the disk; nullptr: alone
};

struct StreamerStats {
    ReaderStats reader;
    ExpertStats experts;
    uint64_t ring_bytes = 0, pinned_bytes = 0;
    uint64_t weight_bytes = 0;  ///< of all dense weights that were used
    uint64_t passes = 0, tokens = 0;
    uint64_t decoded_tokens = 0, decoded_read_bytes = 0;  ///< of passes for one token
    uint64_t decoded_faults = 0;                          ///< pages of the process that the system read meanwhile
    bool direct = true;
};

/** Least bytes that weights can be streamed with. */
inline constexpr uint64_t kLeastWeightsRam = uint64_t{2} << 20;

class Streamer;

/** One graph's way through its weights. While it lives no other graph has one: they share the disk, the ring and its order. */
class Pass {
public:
    Pass() = default;
    Pass(Pass&&) = default;
    Pass& operator=(Pass&&) = default;
    ~Pass() = default;

    bool is_streaming() const { return reader_ != nullptr; }
    /**
     * The next use, which is to be of the weight at `data`: uses come in the order that begin() was told. nullptr: it is to be read where it is mapped.
     * Its chunks are asked for with wait() and given back with done(), each row once. By the thread that runs the graph.
     */
    StreamedWeight* next(const std::byte* data);
    /** Reader's functions of these names, for chunks of what next() gave last. */
    const std::byte* wait(Chunk& chunk) const { return reader_->wait(chunk); }
    static const std::byte* peek(const Chunk& chunk) { return Reader::peek(chunk); }
    void done(Chunk& chunk, int64_t rows) const { reader_->done(chunk, rows); }
    /**
     * The same of experts: the matrix to be used next, nullptr where it is read as mapped. Once for each time that it is used in turn; the last one's
     * used() comes before it.
     */
    ExpertMatrix* next_experts(const std::byte* data);
    /** ExpertCache's functions of these names, for what next_experts() gave last. Parts are asked for in the order that want() has made. */
    void want(ExpertMatrix& matrix, std::span<const int32_t> experts, std::span<const int64_t> columns);
    void done(ExpertMatrix& matrix, ExpertPart& part, int64_t rows) const { experts_->done(matrix, part, rows); }
    static void used(ExpertMatrix& matrix) { ExpertCache::used(matrix); }
    Status status() const { return reader_ ? reader_->status() : Status::ok(); }
    /** Ends it. Errors: status(), or a file has changed meanwhile, so that what was computed may be wrong. Throws std::bad_alloc. */
    Status finish();

private:
    friend class Streamer;
    std::unique_lock<std::mutex> lock_;
    Streamer* streamer_ = nullptr;
    Reader* reader_ = nullptr;
    std::span<StreamedWeight* const> uses_;
    size_t used_ = 0;
    int64_t tokens_ = 0;
    ExpertCache* experts_ = nullptr;
    std::span<const Order::Experts> expert_uses_;
    size_t experts_used_ = 0;    // of these
    int64_t experts_times_ = 0;  // of the last one
    std::vector<ExpertMatrix*> later_;
};

/**
 * Weights of which memory holds a part. Models whose mappings together fit into ram() are left as they are. Of others a fixed subset is read once and
 * stays, and the rest is read anew for each graph, in the order of its use and ahead of it. Their bytes come from the models' files; where they are
 * mapped nobody looks at them. Thread-safe.
 */
class Streamer {
public:
    /** Errors: too few bytes, the text of the faults. Throws std::bad_alloc. */
    static Status open(const StreamerSettings& settings, std::unique_ptr<Streamer>* out);
    ~Streamer();
    Streamer(const Streamer&) = delete;
    Streamer& operator=(const Streamer&) = delete;

    /** The host has mapped a part of a model there. Where it cannot be streamed the log says why. Throws std::bad_alloc. */
    void add(const std::byte* memory, size_t bytes);
    /** That mapping is about to end; nothing is computed with it any more. Nothing for one that was not added. */
    void remove(const std::byte* memory) noexcept;
    /** Of all mappings that were added and can be streamed. */
    uint64_t mapped_bytes() const { return mapped_bytes_.load(std::memory_order_relaxed); }
    /**
     * Weights may take so many bytes from the next graph on, kLeastWeightsRam or more unless all that is mapped fits. Waits until no graph is under way; what
     * stayed in memory is given back and read anew.
     */
    void set_ram(uint64_t bytes) noexcept;
    uint64_t ram() const { return ram_.load(std::memory_order_relaxed); }

    /**
     * A graph that multiplies with these weights, in this order, for `tokens` tokens. `out` is not streaming where all of them are to be read as mapped.
     * Waits until other graphs are done. Errors: a file has changed; no thread. Throws std::bad_alloc.
     */
    Status begin(std::span<const WeightUse> uses, int64_t tokens, Pass* out);

    StreamerStats stats() const;
    /** {"ram": …, "pinned_bytes": …, …}: what the last graph found in memory, and what was read for all of them. */
    std::string json() const;

private:
    friend class Pass;

    /** What ends together: where a read gets no answer it never does. */
    struct Work {
        Work(Plan::Files files, size_t chunk_bytes, uint64_t pinned)
            : plan(std::move(files), chunk_bytes, pinned, experts) {}
        ExpertCache experts;
        Plan plan;
        Order* last = nullptr;
        std::unique_ptr<Reader> reader;  // ends first
        Work* lost_before = nullptr;     // of lost_
    };
    // All that have not ended, as a device may still write there. The process has hold of them to its end, so that no search for leaks finds them.
    inline static std::atomic<Work*> lost_{nullptr};

    explicit Streamer(StreamerSettings settings);
    Status check_unchanged() const;
    /** A pass for so many tokens has ended well. */
    void end(int64_t tokens);
    Status start();
    void forget_all() noexcept;

    void lay_out_ring() noexcept;
    /** "ATLAS_WEIGHTS_RAM=4194304". */
    std::string bound() const { return settings_.name + "=" + std::to_string(ram()); }

    const StreamerSettings settings_;

    std::mutex mutex_;           // held by a pass; guards what follows
    std::atomic<uint64_t> ram_;  // looked at without it too, as the next one is
    Plan::Files files_;
    std::atomic<uint64_t> mapped_bytes_{0};  // of files_
    std::unique_ptr<Work> work_;
    bool said_unmapped_ = false, said_fits_ = false;

    mutable std::mutex stats_mutex_;  // guards what follows; taken after mutex_
    const Reader* reader_ = nullptr;  // of work_
    const ExpertCache* experts_ = nullptr;
    size_t slot_bytes_ = 0, slots_ = 0;  // of the ring; changed while both are held
    ReaderStats ended_;                  // of readers that ended
    ExpertStats ended_experts_;
    uint64_t passes_ = 0, tokens_ = 0, pinned_bytes_ = 0, weight_bytes_ = 0;
    bool direct_ = true;
    // Of passes for one token: what prompts read says nothing of how fast tokens come.
    uint64_t decoded_tokens_ = 0, decoded_read_bytes_ = 0, read_before_ = 0, decoded_faults_ = 0, faults_before_ = 0;
    bool said_short_ = false;
};

}  // namespace atlas::weights
