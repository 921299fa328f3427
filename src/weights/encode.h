#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/weights.h"

namespace atlas::weights {

/**
 * Whether rows of `cols` weights can be rounded to type `to`: one of q8_0, q5_1, iq4_nl, q6_K, q5_K, q4_K and e4m3, and cols a positive
 * multiple of its block.
 */
bool can_encode(kernels::WeightType to, int64_t cols);

/**
 * Rounds a row of `cols` f32 weights to blocks of type `to` as GGUF has them, or kernels/e4m3.h: weight_row_bytes(to, cols) at `out`, whose alignment is 1. Only
 * where can_encode(to, cols). What is not finite counts as 0, what f16 has no room for as ±65504. Blocks do not depend on each other.
 * Thread-safe; allocates nothing.
 */
void encode_weights(kernels::WeightType to, const float* row, int64_t cols, std::byte* out);

/** A row of blocks of kernels/e4m3.h, cols a multiple of 64, as f32. Thread-safe. */
void decode_e4m3(const std::byte* row, int64_t cols, float* out);

}  // namespace atlas::weights
