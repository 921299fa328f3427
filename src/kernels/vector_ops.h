#pragma once

#include <cstddef>

namespace atlas::memory {

/** GELU in its tanh form, gelu(z) = z·σ(2√(2/π)(z + 0.044715z³)): value and derivative of n elements; `slope` may be null. */
void gelu(const float* z, size_t n, float* value, float* slope);

/** y = a·x. */
void scaled_copy(float a, const float* x, size_t n, float* y);
/** y = a·x + b·y. */
void scaled_add(float a, const float* x, float b, size_t n, float* y);
/** y = x ⊙ y. */
void multiply(const float* x, size_t n, float* y);
/** Σ x². In double across blocks, so that it does not drift with n. */
double square_sum(const float* x, size_t n);
/** Whether all are finite. */
bool all_finite(const float* x, size_t n);
/** y = scale·cos(x). */
void cosine(const float* x, size_t n, float scale, float* y);
/** y = exp(x). */
void exponential(const float* x, size_t n, float* y);

}  // namespace atlas::memory
