#pragma once

#include <cstddef>

#include "base/data_type.h"

namespace atlas::kernels::cpu {

/** out[j·out_stride + i] = rows[j][i] as f32, rows `stride` bytes apart. */
using DecodeFn = void (*)(const std::byte* rows, size_t stride, size_t count, size_t d, float* out, size_t out_stride);

/** That of a type in the instruction set in use; nullptr for kOther. */
DecodeFn row_decode(DataType type);

}  // namespace atlas::kernels::cpu
