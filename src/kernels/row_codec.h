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
 * Plain encoder of a native type, rounding as GGUF's reference quantisers do (same choice of scale, same rounding; iq4_nl searches its scale
 * and may differ in the last step). Never nullptr for a type other than kOther.
 */
RowEncoder row_encoder(DataType type);

/** The same bits, vectorised for f16, bf16 and q8_0; `type` is not kOther. Of n finite elements, or with NaN in f16 and bf16. */
void encode_row(DataType type, const float* src, void* dst, int64_t n);

float f16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float value);

}  // namespace atlas::kernels
