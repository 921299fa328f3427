#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"

namespace atlas::memory {

/** The function that is learned (arXiv 2505.23735, equations 42 and 43). r is MemoryShape::residual, biases are optional. */
enum class MemoryKind : uint8_t {
    kLinear,  ///< M(x) = r·x + W1 x + b1
    kDeep,    ///< M(x) = r·x + W1 gelu(W2 x + b2) + b1
    kGated,   ///< M(x) = r·x + W1 (gelu(W2 x + b2) ⊙ W3 x) + b1
};

struct MemoryShape {
    MemoryKind kind = MemoryKind::kDeep;
    size_t d_in = 0;
    size_t d_out = 0;
    size_t hidden = 0;      ///< 4·d_in in the paper; unused for kLinear
    float residual = 1.0f;  ///< r, fixed; anything but 0 needs d_in = d_out
    bool bias = false;

    bool operator==(const MemoryShape&) const = default;
};

/** A matrix inside the flat vector of parameters, rows contiguous. Biases have one row. */
struct ParameterTensor {
    const char* name;  ///< weight1, bias1, weight2, bias2, weight3
    size_t rows;
    size_t cols;
    size_t offset;
};

Status check_shape(const MemoryShape& shape);

/** The parameters of a shape in order; the sum of rows·cols is parameter_count. */
std::vector<ParameterTensor> parameter_tensors(const MemoryShape& shape);
size_t parameter_count(const MemoryShape& shape);

/**
 * Start of learning: W1 and biases 0, so that M(x) = r·x exactly; W2, W3 normal with variance 1/d_in (kLinear: all 0). A zero W1 learns at
 * the first step, since its gradient needs W2 alone.
 */
void initialize_parameters(const MemoryShape& shape, uint64_t seed, float* parameters);

/** Buffers that only grow; one per thread. */
struct MemoryWorkspace {
    std::vector<float> z, activation, slope, gate, hidden, output, error, d_hidden, d_z, d_gate, scaled;
};

/** y[n][d_out] = M(x[n][d_in]). */
void memory_forward(const MemoryShape& shape, const float* parameters, const float* x, size_t n, float* y,
                    MemoryWorkspace* work);

/**
 * For every weighting w of the n pairs, gradients[w] (parameter_count floats, overwritten) = Σ_i weights[w][i] ∇‖M(x_i) − v_i‖². Returns the loss
 * Σ_i weights[0][i] ‖M(x_i) − v_i‖². x_gradient: null, or [n][d_in] of weighting 0. GEMMs over the chunk, docs/design/memory.md.
 */
double memory_gradient(const MemoryShape& shape, const float* parameters, const float* x, const float* v, size_t n,
                       std::span<const float* const> weights, std::span<float* const> gradients, float* x_gradient,
                       MemoryWorkspace* work);

}  // namespace atlas::memory
