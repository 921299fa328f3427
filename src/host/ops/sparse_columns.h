#pragma once

#include <ggml.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "side_car/thresholds.h"

namespace atlas::host {

/** Of weights that have products with inputs left out. */
struct SparseBytes {
    uint64_t all = 0;
    uint64_t read = 0;
};

/**
 * Products for a single token with the smallest of its inputs left out: their columns of the weights are not read (TEAL, arXiv 2408.14690). With thresholds,
 * which a side-car has of projections of attention and feed-forward parts, an input is left out where it is below its matrix's. Without, the last product of a
 * feed-forward part alone leaves out a share of each token's own, as most of what a gated unit lets through is small. Weights lie by row, and a
 * column's are a cache line apart: they are copied by column when they are first needed. Of one backend instance; weights that a program writes anew
 * meanwhile are not noticed.
 *
 * f32, f16 and bf16 alone. Of weights in blocks whole blocks of 32 inputs would have to be left out, which costs ten times as much quality as
 * inputs one by one; and the same codes by column are read no faster than all of them by row, at half of them (docs/design/experiments.md).
 */
class SparseColumns {
public:
    /** Whether the weights are of such a type. */
    static bool has_type(const ggml_tensor* node);
    /**
     * Whether the node, which passed check_mat_mul, is such a product; then it is done: without what is below the threshold for `share`, or, where thresholds is
     * null, without ⌊share · inputs⌋ of its inputs; 0 ≤ share ≤ 1. Does not depend on n_threads. Adds to `bytes`. Throws std::bad_alloc.
     */
    bool run(const ggml_tensor* node, double share, const side_car::Thresholds* thresholds, int n_threads,
             SparseBytes* bytes);
    /** Of the copies. */
    size_t bytes() const { return bytes_; }

private:
    struct Copy {
        ggml_type type = GGML_TYPE_COUNT;
        int64_t inputs = 0;
        int64_t outputs = 0;
        std::vector<std::byte> columns;  // [inputs][outputs]
    };

    /** Of a matrix of a side-car. */
    struct Known {
        double share = -1.0;  // that the threshold is for
        float threshold = 0.0f;
    };

    const Copy& copy_of(const ggml_tensor* weights, int n_threads);
    float threshold_of(const ggml_tensor* weights, double share, const side_car::Thresholds& thresholds);
    void choose(const float* x, int64_t n, double share);
    void choose_above(const float* x, int64_t n, float threshold);
    void add_chosen(const ggml_tensor* node, const Copy& copy, int n_threads);

    std::map<const void*, Known> known_;  // by the address of the weights
    std::map<const void*, Copy>
        copies_;  // by the address of the weights, which stay where they are while a context lives
    size_t bytes_ = 0;
    std::vector<uint32_t> counts_;  // of inputs, by size
    std::vector<int32_t> which_;    // inputs that are read
    std::vector<float> factors_;    // their values
    std::vector<float> parts_;      // [kShares][outputs]
};

}  // namespace atlas::host
