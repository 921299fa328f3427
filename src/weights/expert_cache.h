#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "weights/chunks.h"
#include "weights/expert_policy.h"

namespace atlas::weights {

class Reader;

/** What one matrix of experts (gate, up or down of a layer) has of one expert. */
struct ExpertPart {
    std::vector<Chunk> chunks;  ///< in order of rows; they have memory of their own while this has a slot

    // What follows belongs to the ExpertCache.
    size_t expert = 0;          ///< of all layers, for the policy
    std::byte* slot = nullptr;  ///< nullptr: it is nowhere
    bool wanted = false;        ///< by the graph: it keeps its slot, or gets one
    double rank = 0;            ///< under which it stands among those that may leave
    std::atomic<int64_t> rows_left{0};
};

/** A tensor with the matrices of a layer's experts. */
struct ExpertMatrix {
    const std::byte* data = nullptr;  ///< where the host has it mapped
    size_t bytes = 0;                 ///< of all experts
    int64_t rows = 0;                 ///< of one
    size_t part_bytes = 0;            ///< of a slot
    size_t first_expert =
        0;  ///< number of its expert 0 for the policy; matrices that are chosen from together have the same
    std::vector<ExpertPart> parts;
    bool considered = false;  ///< by the plan

    // What the graph under way wants of it, in the order of use; empty: it has not said so yet.
    std::vector<int32_t> order;
};

/** Cuts a tensor of `experts` matrices, `stride` bytes apart, whose first one lies at `offset` of a file. No parts where kChunkRows rows are more than `most`. */
void cut_experts(const ModelFile* file, uint64_t offset, int64_t experts, size_t stride, int64_t rows, size_t row_bytes,
                 size_t most, ExpertMatrix* out);

struct ExpertStats {
    uint64_t bytes = 0, all_bytes = 0;  ///< of slots, and of all experts
    uint64_t hits = 0, misses = 0;      ///< parts that were wanted: in memory, or to be read
    uint64_t read_bytes = 0;            ///< of parts that were to be read
    uint64_t evictions = 0;
    uint64_t choices = 0;  ///< of experts, by layers and graphs
    std::array<uint64_t, ExpertPolicy::kRates> shadow_hits{};
    size_t followed = 0;
    uint64_t most_hits = 0;  ///< ExpertPolicy::most_hits(); only of full_stats()
};

/**
 * Experts that are in memory. A graph says which ones a product wants when they are known, and with them those that the following products of the same
 * choice will want; what is missing is read at once, before whatever is read ahead, into slots of those that are wanted least. Parts get slots strictly
 * in the order of their use and keep them until they were used, so that any number of slots is enough.
 *
 * want() by the thread that runs the graph, done() by any; the rest while nothing is wanted.
 */
class ExpertCache {
public:
    ExpertCache() = default;
    ~ExpertCache();
    ExpertCache(const ExpertCache&) = delete;
    ExpertCache& operator=(const ExpertCache&) = delete;

    /** Who reads; to be said before anything is wanted. */
    void read_with(Reader* reader) { reader_ = reader; }
    /** The matrix outlives this. `with`: a matrix that is chosen from together with it, or nullptr. Throws std::bad_alloc. */
    void add(ExpertMatrix& matrix, const ExpertMatrix* with);
    bool empty() const { return matrices_.empty(); }
    /** Bytes of all experts, and the least that slots may take. */
    uint64_t all_bytes() const { return all_bytes_; }
    uint64_t least_bytes() const;
    uint64_t bytes() const { return bytes_; }
    /** Slots grow to about `bytes`, at least to least_bytes(). Throws std::bad_alloc. */
    void grow(uint64_t bytes);

    /** Another graph, for so many tokens. What an earlier one wanted and did not use is wanted no more. */
    void begin(int64_t tokens);
    /**
     * The next product multiplies with these experts, in ascending order, each with so many columns. `later`: matrices of which the same experts will be
     * wanted next. In the order of matrix.order the parts are to be waited for and used. Throws std::bad_alloc.
     */
    void want(ExpertMatrix& matrix, std::span<const int32_t> experts, std::span<const int64_t> columns,
              std::span<ExpertMatrix* const> later);
    /** So many of its rows will not be looked at any more in this use. */
    void done(ExpertMatrix& matrix, ExpertPart& part, int64_t rows);
    /** All that want() said of it was done. */
    static void used(ExpertMatrix& matrix) { matrix.order.clear(); }

    ExpertStats stats() const;
    /** With what takes longer to say. */
    ExpertStats full_stats() const noexcept;

private:
    /** Slots of one size. */
    struct Slots {
        uint64_t all_bytes = 0;  // of parts of this size
        uint64_t part_count = 0, slot_count = 0;
        std::vector<std::byte*> free;
        std::set<std::pair<double, ExpertPart*>> leaving;  // that have a slot and are not wanted, by rank
    };
    struct Slab {
        std::byte* memory;
        size_t bytes;
    };
    struct Wish {
        ExpertMatrix* matrix;
        ExpertPart* part;
    };

    bool is_ordered(const ExpertMatrix& matrix, std::span<const int32_t> experts);
    void withdraw(ExpertMatrix& matrix);
    void enqueue(ExpertMatrix& matrix, std::span<const int32_t> experts);
    void serve();
    bool take_slot(Slots& slots, ExpertPart& part);
    void let_go(ExpertMatrix& matrix, ExpertPart& part);
    void sort_anew();

    Reader* reader_ = nullptr;
    mutable std::mutex mutex_;       // guards what follows, and in parts all but rows_left
    std::map<size_t, Slots> slots_;  // by bytes
    std::vector<ExpertMatrix*> matrices_;
    std::vector<Slab> slabs_;
    ExpertPolicy policy_;
    size_t experts_ = 0;      // of all layers
    size_t sorted_by_ = 0;    // rate
    std::deque<Wish> queue_;  // not served yet
    std::vector<Wish> wanted_;
    std::vector<Chunk*> to_read_;
    std::vector<int32_t> sorted_;
    uint64_t bytes_ = 0, all_bytes_ = 0;
    uint64_t hits_ = 0, misses_ = 0, read_bytes_ = 0, evictions_ = 0;
};

}  // namespace atlas::weights
