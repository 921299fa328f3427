#pragma once

#include <ggml.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"
#include "host/ops/sparse_columns.h"
#include "kernels/weights.h"
#include "side_car/magnitudes.h"
#include "side_car/thresholds.h"
#include "weights/format_store.h"
#include "weights/streamer.h"

namespace atlas::host {

/** Whether the operand is a weight of the model that the host may lay into the buffer type of ATLAS0, or has. */
bool is_weight(const ggml_tensor* operand);

/** The type of a matrix of weights, if it has kernels. */
std::optional<kernels::WeightType> weight_type_of(const ggml_tensor* tensor);

/**
 * Unsupported and the reason, unless the node is a product of one matrix of a type with kernels (GGUF's own blocks) and contiguous f32 columns. By
 * types and shapes alone.
 */
Status check_mat_mul(const ggml_tensor* node);
/** The same of MUL_MAT_ID: several such matrices, and for each column of a token the number of the one that it is multiplied with. */
Status check_mat_mul_id(const ggml_tensor* node);

/** Where weights come from but from where they are mapped; each may be null. */
struct WeightSource {
    weights::Streamer* streamer = nullptr;    ///< reads those that memory has no room for
    weights::FormatStore* formats = nullptr;  ///< rounds them when they are first used
};

/** What is done with the inputs of products beside multiplying them; each may be null. */
struct InputUse {
    double left_out = 0.0;                              ///< share that single tokens leave out where they can
    const side_car::Thresholds* thresholds = nullptr;   ///< below which they do; else each token leaves out its smallest ones
    side_car::Magnitudes* magnitudes = nullptr;         ///< told how large they are
};

/**
 * MUL_MAT and MUL_MAT_ID of one backend instance. Columns are quantised once for all products that follow each other with the same ones (Q, K, V;
 * gate, up).
 */
class MatMul {
public:
    size_t scratch_bytes() const { return memory_.capacity() + sparse_.bytes(); }
    /** Of those: weights by column. */
    size_t column_bytes() const { return sparse_.bytes(); }
    /** Products of this graph that left inputs out, and whether the last one did. */
    uint64_t sparse_products() const { return sparse_products_; }
    /** Those of them whose weights were rounded, and those whose weights did not come from where they are mapped. */
    uint64_t rounded_products() const { return rounded_products_; }
    uint64_t streamed_products() const { return streamed_products_; }
    bool was_sparse() const { return was_sparse_; }
    /** Of the weights of those products. */
    const SparseBytes& sparse_bytes() const { return sparse_bytes_; }
    /**
     * Activations of an earlier graph are forgotten: other values may lie there now. products: those that run() will be called for, in order, whose
     * weights come from `source`. No inputs are left out beside a streamer, which reads rows. Errors: Streamer::begin(). Throws std::bad_alloc.
     */
    Status begin_graph(const WeightSource& source, std::span<const ggml_tensor* const> products, const InputUse& inputs,
                       int n_threads);
    /** Errors: Pass::finish(). Throws std::bad_alloc. */
    Status end_graph() { return pass_.finish(); }
    /** The same where nobody wants to know; to be called if end_graph() was not. */
    void leave_graph() { pass_ = {}; }
    /**
     * The node passed check_mat_mul, and so did `next`, which will be run after it, if it is not null. Errors: the weights cannot be read. Throws
     * std::bad_alloc.
     */
    Status run(const ggml_tensor* node, const ggml_tensor* next, int n_threads);
    /**
     * The node passed check_mat_mul_id. Invalid, naming it, where a number is that of no expert; nothing is read with it then. Errors: the weights cannot
     * be read. Throws std::bad_alloc.
     */
    Status run_chosen(const ggml_tensor* node, int n_threads);

    /** Columns quantised at once: a batch of the usual size, and bounded memory for any. */
    static constexpr int64_t kMostColumns = 2048;
    /** What is worth a share of its own: bytes of weights, times columns. */
    static constexpr int64_t kLeastShare = int64_t{96} << 10;

private:
    /** Rows [begin, end) of an expert, or of a chunk of one that is streamed. */
    struct Share {
        size_t expert;
        int64_t begin, end;
        weights::Chunk* chunk = nullptr;
    };

    /** Of a product with chosen experts. */
    static int64_t tokens_at_once(const ggml_tensor* node);
    void multiply(const ggml_tensor* node, const ggml_tensor* next, int64_t first, int64_t n, int n_threads);
    Status sort_by_expert(const ggml_tensor* node, int64_t token, int64_t count);
    void multiply_chosen(const ggml_tensor* node, int64_t token, int64_t count, int n_threads);
    void round_weights(std::span<const ggml_tensor* const> products, int n_threads);
    void share_out(const ggml_tensor* weights, size_t row_bytes, int64_t threads);
    void share_out(const ggml_tensor* weights, int64_t threads, weights::ExpertMatrix& streamed);
    /** Where n quantised columns lie or are to lie, from the first of the tensor or not; whether they are there already. */
    bool activations_of(const ggml_tensor* columns, kernels::ActivationType type, int64_t k, int64_t n, bool first,
                        std::byte** quantised);

    weights::Pass pass_;
    weights::FormatStore* formats_ = nullptr;  // of this graph
    std::vector<weights::WeightUse> uses_;
    std::vector<kernels::WeightMatrix> to_round_;
    const ggml_tensor* columns_ = nullptr;  // that `memory_` holds, quantised
    kernels::ActivationType type_ = kernels::ActivationType::kF32;
    std::vector<std::byte> memory_;
    SparseColumns sparse_;
    InputUse inputs_;  // of this graph
    SparseBytes sparse_bytes_;
    uint64_t sparse_products_ = 0;
    uint64_t rounded_products_ = 0;
    uint64_t streamed_products_ = 0;
    bool was_sparse_ = false;
    std::vector<kernels::ColumnPair> pairs_;
    std::vector<size_t> first_of_, next_of_;  // per expert, in pairs_
    std::vector<Share> shares_;
    std::vector<int32_t> chosen_;           // experts with columns
    std::vector<int64_t> columns_of_each_;  // of these
};

}  // namespace atlas::host
