#pragma once

#include "base/data_type.h"

namespace atlas::kernels {

/** Decoder of a native type (vectorised where it matters); never nullptr for a type other than kOther. */
RowDecoder row_decoder(DataType type);

/**
 * Encoder of a native type, rounding as GGUF's reference quantisers do (same choice of scale, same rounding; iq4_nl searches its scale and may differ in the last step), so that a KV cache
 * written by Atlas equals one written by the host. Never nullptr for a type other than kOther.
 */
RowEncoder row_encoder(DataType type);

float f16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float value);

}  // namespace atlas::kernels
