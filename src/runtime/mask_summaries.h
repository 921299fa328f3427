#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/attention.h"

namespace atlas::runtime {

/** Summaries of the masks of one graph: layers share a mask. Keeps its buffers from graph to graph. Not thread-safe. */
class MaskSummaries {
public:
    /** Masks may hold new values from here on. */
    void begin_graph() { in_use_ = 0; }

    /** Fills mask->summary and mask->summary_blocks; the rest of `mask` describes [n_streams][n_heads][n_tokens][n_keys]. Throws std::bad_alloc. */
    void attach(int64_t n_tokens, int64_t n_keys, int n_threads, kernels::Mask* mask);

private:
    struct Summary {
        const void* data;
        std::array<int64_t, 4> shape;
        std::vector<kernels::BlockVisibility> blocks;
    };

    std::vector<Summary> summaries_;  // the first in_use_ belong to this graph
    size_t in_use_ = 0;
};

}  // namespace atlas::runtime
