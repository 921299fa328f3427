#pragma once

#include <cstddef>

namespace atlas::kernels {

/** out[j] = Σ_i rows[j·d + i] · t[i] for j < n. Thread-safe, like all here; no alignment is asked for. */
void row_products(const float* rows, size_t n, size_t d, const float* t, float* out);

/** sum[i] = Σ_j weights[j] · (rows[j·d + i] − offset[i]) for i < d; offset may be nullptr, which is 0. */
void weighted_sum(const float* rows, size_t n, size_t d, const float* weights, const float* offset, float* sum);

/**
 * Distances of the points rows[j] from `mean`, per pair of dimensions: (2p, 2p + 1) if `adjacent`, else (p, p + d/2); d even. With δ² a pair's
 * squared distance, spread[p] = √(Σ_j weights[j] · δ²) and reach[p] = √(max_j δ²), p < d/2.
 */
void pair_distances(const float* rows, size_t n, size_t d, bool adjacent, const float* weights, const float* mean,
                    float* spread, float* reach);

}  // namespace atlas::kernels
