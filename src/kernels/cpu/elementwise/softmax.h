#pragma once

#include <cstddef>

namespace atlas::kernels::cpu {

/** What softmax does with a row of scores, in the instruction set in use. */
struct SoftmaxOps {
    /** Largest of n values; NaN is passed over. */
    float (*max)(const float* values, size_t n);
    /** values[i] = exp(values[i] − shift), exactly 0 for −inf, NaN for NaN; returns their sum. */
    float (*exp_sum)(float* values, size_t n, float shift);
    /** values[i] *= factor. */
    void (*scale)(float* values, size_t n, float factor);
    /** Whether all n values are finite. */
    bool (*finite)(const float* values, size_t n);
    /** values[i] = cap · tanh(values[i]). */
    void (*soft_cap)(float* values, size_t n, float cap);
};

const SoftmaxOps& softmax_ops();

}  // namespace atlas::kernels::cpu
