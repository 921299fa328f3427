#pragma once

#include <cstddef>
#include <cstdint>

#include "base/data_type.h"

namespace atlas::kernels {

/** Plain decoder of a native type, what the fast ones are tested against; never nullptr for a type other than kOther. */
RowDecoder row_decoder(DataType type);

/** out[j·d + i] = element i of the row j·stride bytes behind `rows`, j < count, as f32; `other` decodes kOther. Vectorised. */
void decode_rows(DataType type, RowDecoder other, const std::byte* rows, int64_t stride, int64_t count, int64_t d,
                 float* out);

/**
 * Encoder of a native type, rounding as GGUF's reference quantisers do (same choice of scale, same rounding; iq4_nl searches its scale and may differ in the last step), so that a KV cache
 * written by Atlas equals one written by the host. Never nullptr for a type other than kOther.
 */
RowEncoder row_encoder(DataType type);

float f16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float value);

}  // namespace atlas::kernels
