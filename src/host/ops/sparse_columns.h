#pragma once

#include <ggml.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

namespace atlas::host {

/**
 * The last product of a feed-forward layer for a single token, with a share of its inputs left out, the smallest ones: their columns of the
 * weights are not read. Most of what a gated unit lets through is small (TEAL, arXiv 2408.14690), and here the threshold is that of each token
 * itself, so that nothing has to be calibrated. Weights lie by row, and a column's are a cache line apart: they are copied by column when they
 * are first needed. Of one backend instance; weights that a program writes anew meanwhile are not noticed.
 *
 * f32, f16 and bf16 alone. Of weights in blocks whole blocks of 32 inputs would have to be left out, which costs ten times as much quality as
 * inputs one by one; and the same codes by column are read no faster than all of them by row, at half of them (docs/design/experiments.md).
 */
class SparseColumns {
public:
    /** Whether the product's input is one token's and comes from a gated unit, and its weights are of such a type. It passed check_mat_mul. */
    static bool is_possible(const ggml_tensor* node);
    /** The product without ⌊share · inputs⌋ of its inputs, of 0 ≤ share ≤ 1. Does not depend on n_threads. Throws std::bad_alloc. */
    void run(const ggml_tensor* node, double share, int n_threads);
    /** Of the copies. */
    size_t bytes() const { return bytes_; }

private:
    struct Copy {
        ggml_type type = GGML_TYPE_COUNT;
        int64_t inputs = 0;
        int64_t outputs = 0;
        std::vector<std::byte> columns;  // [inputs][outputs]
    };

    const Copy& copy_of(const ggml_tensor* weights, int n_threads);
    void choose(const float* x, int64_t n, double share);

    std::map<const void*, Copy>
        copies_;  // by the address of the weights, which stay where they are while a context lives
    size_t bytes_ = 0;
    std::vector<uint32_t> counts_;  // of inputs, by size
    std::vector<int32_t> which_;    // inputs that are read
    std::vector<float> factors_;    // their values
    std::vector<float> parts_;      // [kShares][outputs]
};

}  // namespace atlas::host
