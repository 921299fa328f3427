#pragma once

#include <cstddef>
#include <cstdint>

// What stands between a layer's products, row by row: each is the entry of its name of the chosen table, where its contract stands
// (kernels/kernel_table.h).

namespace atlas::kernels {

/** Activation of a gated unit (GLU Variants Improve Transformer, arXiv 2002.05202). */
enum class Gate : uint8_t {
    kReLU,
    kGELU,  ///< in its tanh form
    kSiLU,
};

/** Which elements RoPE turns together. */
enum class RopePairs : uint8_t {
    kAdjacent,  ///< 2i and 2i + 1
    kHalves,    ///< i and i + pairs (GPT-NeoX)
};

void rms_norm(const float* x, size_t n, float epsilon, float* y);
void add(const float* a, const float* b, size_t n, float* sum);
void product(const float* a, const float* b, size_t n, float* y);
void gated(Gate gate, const float* x, const float* up, size_t n, float* y);
void rotate_pairs(RopePairs which, const float* x, const float* cosines, const float* sines, size_t pairs, float* y);

}  // namespace atlas::kernels
