#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <tuple>
#include <vector>

#include "weights/chunks.h"
#include "weights/expert_cache.h"
#include "weights/model_file.h"

namespace atlas::weights {

/** A weight as a product of a graph uses it. */
struct WeightUse {
    const std::byte* data = nullptr;  ///< where the host has it mapped, if it has
    int64_t rows = 0;
    size_t row_bytes = 0;  ///< from row to row
    int64_t times = 1;     ///< that all of it is read in turn

    // Of a tensor with the matrices of a layer's experts, each of so many rows; 0: it is one matrix.
    int64_t experts = 0;
    size_t expert_stride = 0;  ///< bytes from matrix to matrix
    int64_t chosen = 0;        ///< experts of a token
    int32_t choice =
        -1;  ///< number of the choice in the graph: uses that follow each other with the same one want the same experts

    bool operator==(const WeightUse&) const = default;
};

/** The weights that a graph uses, in order. */
struct Order {
    std::vector<WeightUse> uses;
    std::vector<StreamedWeight*>
        weights;                 ///< of each use, as often as it reads it; nullptr: it is read where it is mapped
    std::vector<Chunk*> chunks;  ///< of all of them
    struct Experts {
        ExpertMatrix* matrix;  ///< nullptr: they are read where they are mapped
        WeightUse use;
    };
    std::vector<Experts> experts;  ///< of each use of experts
    uint64_t token_bytes = 0;      ///< of experts, that one token uses
    Order* following = nullptr;    ///< what came after it last time
    bool settled = false;          ///< nothing more is pinned for it
};

/**
 * How models are cut into chunks, in what order graphs use them, and which of them keep memory of their own: a fixed subset of `pinned_limit` bytes,
 * chosen when a graph brings new ones. Not thread-safe.
 */
class Plan {
public:
    using Files = std::vector<std::shared_ptr<const ModelFile>>;

    /** chunk_bytes: most bytes of a chunk, a multiple of io::kIoAlignment. The cache, which outlives this, gets what dense weights leave it. */
    Plan(Files files, size_t chunk_bytes, uint64_t pinned_limit, ExpertCache& experts);
    ~Plan();
    Plan(const Plan&) = delete;
    Plan& operator=(const Plan&) = delete;

    /** Lives as long as this, or until forget_orders(). Throws std::bad_alloc. */
    Order* order_of(std::span<const WeightUse> uses);
    size_t order_count() const { return orders_.size(); }
    void forget_orders() { orders_.clear(); }
    /** Gives memory to a part of its chunks that have none, if there is some left. Nothing may be read meanwhile. Throws std::bad_alloc. */
    void pin(Order& order);

    uint64_t pinned_bytes() const { return pinned_bytes_; }
    /** Of all chunks of all weights that were used. */
    uint64_t weight_bytes() const { return weight_bytes_; }

private:
    using Key = std::tuple<const std::byte*, int64_t, size_t>;
    struct Slab {
        std::byte* memory;
        size_t bytes;
    };

    StreamedWeight* weight_of(const WeightUse& use);
    ExpertMatrix* experts_of(const WeightUse& use, const Order& order);
    void pin_dense(Order& order, uint64_t room, bool* again);
    void give_experts(Order& order, bool again);
    std::byte* take_memory(size_t bytes);

    const Files files_;
    const size_t chunk_bytes_;
    const uint64_t pinned_limit_;
    uint64_t not_considered_ = 0;  // bytes of the files that may hold weights nobody has used yet
    std::map<Key, std::unique_ptr<StreamedWeight>> weights_;
    std::map<Key, std::unique_ptr<ExpertMatrix>> expert_matrices_;
    ExpertCache& experts_;
    bool said_few_ = false;
    std::vector<std::unique_ptr<Order>> orders_;
    uint64_t pinned_bytes_ = 0, weight_bytes_ = 0;
    std::vector<Slab> slabs_;
    size_t slab_used_ = 0;  // of the last one
};

}  // namespace atlas::weights
