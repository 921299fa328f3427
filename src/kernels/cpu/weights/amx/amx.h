#pragma once

#include "kernels/weights.h"

// Products with many columns on Intel's tiles of 16 × 64 bytes (AMX, Sapphire Rapids and later). no_amx/ has the same for other processors.

namespace atlas::kernels::cpu {

/** Whether this processor and its kernel lend tiles to the process, and no lesser instruction set is forced. Asks the kernel once. */
bool amx_usable();

/** multiply_blocks and multiply_floats (panel.h) of types other than f32, where amx_usable. */
void multiply_blocks_amx(const WeightProduct& product, int64_t begin, int64_t end);
void multiply_floats_amx(const WeightProduct& product, int64_t begin, int64_t end);

}  // namespace atlas::kernels::cpu
