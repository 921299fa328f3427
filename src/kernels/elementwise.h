#pragma once

#include <cstddef>

// Operations element by element: each is the entry of its name of the chosen table, where its contract stands (kernels/kernel_table.h).

namespace atlas::kernels {

void gelu(const float* z, size_t n, float* value, float* slope);
void scaled_copy(float a, const float* x, size_t n, float* y);
void scaled_add(float a, const float* x, float b, size_t n, float* y);
double square_sum(const float* x, size_t n);
bool all_finite(const float* x, size_t n);
void cosine(const float* x, size_t n, float scale, float* y);
void exponential(const float* x, size_t n, float* y);

}  // namespace atlas::kernels
