#pragma once

#include "memory/deep_memory.h"

/** Float64 scalar oracles: written from the equations pair by pair, sharing no arithmetic with the kernels. */
namespace atlas::memory::reference {

/** y[d_out] = M(x[d_in]). */
void memory_forward(const MemoryShape& shape, const double* parameters, const double* x, double* y);

/** gradient += weight·∇‖M(x) − v‖²; x_gradient (null, or [d_in]) likewise. Returns weight·‖M(x) − v‖². */
double add_memory_gradient(const MemoryShape& shape, const double* parameters, const double* x, const double* v,
                           double weight, double* gradient, double* x_gradient);

double gelu(double z);
double gelu_slope(double z);

}  // namespace atlas::memory::reference
