#pragma once

#include <cstddef>
#include <cstdint>

#include "base/data_type.h"

namespace atlas::kernels {

/** Rows of K or V as they are stored, evenly spaced. */
struct EncodedRows {
    DataType type;
    RowDecoder decoder = nullptr;  ///< only for type kOther
    const std::byte* data;         ///< the first row
    int64_t stride;                ///< bytes from row to row; 0 repeats one
    int64_t count;                 ///< rows
    int64_t d;                     ///< elements of a row, a multiple of the type's block
};

/** Table::decode_rows of the chosen table: out[j·d + i] = element i of row j as f32. */
void decode_rows(const EncodedRows& rows, float* out);
inline void decode_rows(DataType type, RowDecoder other, const std::byte* rows, int64_t stride, int64_t count,
                        int64_t d, float* out) {
    decode_rows({type, other, rows, stride, count, d}, out);
}

/** Table::encode_row of the chosen table. */
void encode_row(DataType type, const float* src, void* dst, int64_t n);

/** Single numbers, where a kernel would be too much. */
float f16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float value);

}  // namespace atlas::kernels
