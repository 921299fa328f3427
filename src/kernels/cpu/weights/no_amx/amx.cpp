#include "kernels/cpu/weights/amx/amx.h"

namespace atlas::kernels::cpu {

void multiply_blocks_amx(const WeightProduct&, int64_t, int64_t) {}
void multiply_floats_amx(const WeightProduct&, int64_t, int64_t) {}

}  // namespace atlas::kernels::cpu
