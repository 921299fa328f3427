#pragma once

#include <cstdint>

#include "attention/index/kv_index.h"

namespace atlas::attention {

/** Keys, values and queries of one KV head on which a tilt is judged. */
struct TiltSample {
    const float* keys;     ///< [n][d_k], whole blocks in order
    const float* values;   ///< [n][d_v]
    int64_t n;             ///< a multiple of block_keys
    const float* queries;  ///< [n_queries][d_k], scaled
    int64_t n_queries;
    const float* mean_query;  ///< [d_k], scaled
    int64_t d_k, d_v, block_keys;
    Pairing pairing;
    // Other keys of the head, from which a slope of its values is taken: judged by the keys above it must hold beyond its own.
    const float* slope_keys;    ///< [slope_n][d_k]
    const float* slope_values;  ///< [slope_n][d_v]
    int64_t slope_n;            ///< a multiple of block_keys; 0: no slope is tried
    bool alike = false;         ///< whether a block's keys are alike ones (shrunk_mass)
};

/** What choose_tilt found. */
struct TiltChoice {
    float tilt = 0.0f;   ///< factor of the mean query
    float slope = 0.0f;  ///< share of the ValueSlope that is used
};

/**
 * Weights of a block's keys under a tilt t, a_j = e^{t·k_j} / Σ e^{t·k}, their log mass ln Σ_j e^{t·k_j}, and the largest t·k_j. keys [n][d].
 * Expanding about t instead of 0 leaves q − t to the moments: exact for q = t, and the values of keys that the head looks for count more.
 */
void tilted_weights(const float* keys, int64_t n, int64_t d, const float* tilt, float* weights, float* log_mass,
                    float* peak);

/** Adds the blocks of keys [n][d_k] and values [n][d_v] under a tilt; n is a multiple of block_keys. Throws std::bad_alloc. */
void add_blocks(const float* keys, const float* values, int64_t n, int64_t block_keys, const float* tilt, int64_t d_k,
                int64_t d_v, ValueSlope* slope);

/**
 * How many times the mean query the blocks' moments should be expanded about, and how much of the values' slope helps: of a few factors those whose
 * estimate of the attention output over the sample has the smallest squared error, over the blocks that a query would not read; 1 unless others are clearly better. Throws std::bad_alloc.
 */
TiltChoice choose_tilt(const TiltSample& sample);

}  // namespace atlas::attention
