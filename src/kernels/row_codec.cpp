#include "kernels/row_codec.h"

#include <hwy/base.h>

namespace atlas::kernels {

float f16_to_f32(uint16_t bits) { return hwy::F32FromF16(hwy::float16_t::FromBits(bits)); }

uint16_t f32_to_f16(float value) { return hwy::BitCastScalar<uint16_t>(hwy::F16FromF32(value)); }

}  // namespace atlas::kernels
