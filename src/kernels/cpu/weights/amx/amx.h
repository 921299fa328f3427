#pragma once

#include "kernels/weights.h"

// Products with many columns on tiles (kernels/cpu/amx). no_amx/ has the same for processors without them.

namespace atlas::kernels::cpu {

/** multiply_blocks and multiply_floats (panel.h) of types other than f32, where amx_usable (kernels/cpu/amx/usable.h). */
void multiply_blocks_amx(const WeightProduct& product, int64_t begin, int64_t end);
void multiply_floats_amx(const WeightProduct& product, int64_t begin, int64_t end);

}  // namespace atlas::kernels::cpu
