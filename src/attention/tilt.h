#pragma once

#include <cstdint>

#include "attention/kv_index.h"

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
};

/**
 * Weights of a block's keys under a tilt t, a_j = e^{t·k_j} / Σ e^{t·k}, their log mass ln Σ_j e^{t·k_j}, and the largest t·k_j. keys [n][d].
 * Expanding about t instead of 0 leaves q − t to the moments: exact for q = t, and the values of keys that the head looks for count more.
 */
void tilted_weights(const float* keys, int64_t n, int64_t d, const float* tilt, float* weights, float* log_mass,
                    float* peak);

/**
 * How many times the mean query the blocks' moments should be expanded about: of a few factors the one whose estimate of the attention
 * output over the sample has the smallest squared error; 0 unless another is clearly better. Throws std::bad_alloc.
 */
float choose_tilt(const TiltSample& sample);

}  // namespace atlas::attention
