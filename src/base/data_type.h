#pragma once

#include <cstddef>
#include <cstdint>

namespace atlas {

/** Element types that have native kernels. Block formats are those of GGUF (32 elements per block). */
enum class DataType : uint8_t {
    kF32,
    kF16,
    kBF16,
    kQ8_0,    ///< f16 scale, 32 × i8
    kQ4_0,    ///< f16 scale, 32 × 4 bit, value (q − 8)·d; low nibbles are elements 0–15, high nibbles 16–31
    kQ4_1,    ///< f16 scale, f16 minimum, 32 × 4 bit, value q·d + m
    kQ5_0,    ///< f16 scale, u32 of fifth bits, 32 × 4 bit, value (q − 16)·d
    kQ5_1,    ///< f16 scale, f16 minimum, u32 of fifth bits, 32 × 4 bit, value q·d + m
    kIQ4_NL,  ///< f16 scale, 32 × 4 bit index into a table of 16 non-uniform levels
    kOther,   ///< anything else; rows are decoded through a RowDecoder
};

inline constexpr int kDataTypeCount = 10;

/** Decodes `n` consecutive elements of one row into f32. Thread-safe. `n` is a multiple of the type's block. */
using RowDecoder = void (*)(const void* src, float* dst, int64_t n);
/** Encodes `n` consecutive f32 elements into one row. Thread-safe. `n` is a multiple of the type's block. */
using RowEncoder = void (*)(const float* src, void* dst, int64_t n);

struct DataTypeInfo {
    const char* name;        ///< as GGUF writes it, for example "q8_0"
    int32_t block_elements;  ///< elements per block, 1 for plain floats
    int32_t block_bytes;     ///< bytes per block
};

/** Facts of a native type. `type` must not be kOther. */
const DataTypeInfo& data_type_info(DataType type);

/** Bytes of `n` elements of a native type; `n` must be a multiple of the block. */
inline size_t row_bytes(DataType type, int64_t n) {
    const DataTypeInfo& info = data_type_info(type);
    return static_cast<size_t>(n / info.block_elements) * static_cast<size_t>(info.block_bytes);
}

}  // namespace atlas
