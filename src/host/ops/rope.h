#pragma once

#include <ggml.h>

#include <cstdint>
#include <vector>

#include "base/status.h"

namespace atlas::host {

/** Unsupported and the reason, unless the node is a ROPE of f32 with one position per token (adjacent pairs or halves; YaRN, factors). */
Status check_rope(const ggml_tensor* node);

/**
 * ROPE of one backend instance (RoFormer, arXiv 2104.09864; YaRN, arXiv 2309.00071). Sines and cosines are found once for all nodes of a graph
 * with the same positions and parameters: Q and K of all layers.
 */
class Rope {
public:
    /** Positions of an earlier graph are forgotten. */
    void begin_graph() { positions_ = nullptr; }
    /** The node passed check_rope. Throws std::bad_alloc. */
    Status run(const ggml_tensor* node, int n_threads);

private:
    void make_turns(const ggml_tensor* node, int n_threads);

    // What `turns_` was made of.
    const ggml_tensor* positions_ = nullptr;
    const void* factors_ = nullptr;
    std::vector<int32_t> params_;

    std::vector<float> turns_;  // [tokens][cosines, sines][pairs]
};

}  // namespace atlas::host
