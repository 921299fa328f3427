#pragma once

#include <cstddef>
#include <vector>

namespace atlas::memory::reference {

/** a [rows][cols] = u · diag(sigma) · vᵀ with k = min(rows, cols): u [rows][k], v [cols][k], sigma not sorted. */
struct Svd {
    std::vector<double> u, sigma, v;
};

/** Singular values by one-sided Jacobi rotations (Hestenes 1958), to about 1e-14 relative. */
Svd svd(size_t rows, size_t cols, const std::vector<double>& a);

}  // namespace atlas::memory::reference
