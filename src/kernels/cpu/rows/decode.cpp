#include "kernels/cpu/rows/decode.h"

#include "kernels/cpu/cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rows/decode.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "kernels/cpu/rows/load-inl.h"

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {

template <class Load>
void DecodeRows(const std::byte* rows, size_t stride, size_t count, size_t d, float* out, size_t out_stride) {
    const auto* row = reinterpret_cast<const uint8_t*>(rows);
    for (size_t j = 0; j < count; ++j, row += stride, out += out_stride) {
        V v[kVectors];
        size_t i = 0;
        for (; i + kChunk <= d; i += kChunk) {
            Load::Chunk(row, i, v);
            ATLAS_UNROLL
            for (size_t x = 0; x < kVectors; ++x) hn::StoreU(v[x], D(), out + i + x * kLanes);
        }
        if (i < d) {
            Load::Tail(row, i, d - i, v);
            ATLAS_UNROLL
            for (size_t x = 0; x < kVectors; ++x) {
                if (i + x * kLanes < d) hn::StoreN(v[x], D(), out + i + x * kLanes, d - i - x * kLanes);
            }
        }
    }
}

DecodeFn DecodeOf(DataType type) {
    switch (type) {
        case DataType::kF32:
            return &DecodeRows<LoadF32>;
        case DataType::kF16:
            return &DecodeRows<LoadF16>;
        case DataType::kBF16:
            return &DecodeRows<LoadBF16>;
        case DataType::kQ8_0:
            return &DecodeRows<LoadQ8_0>;
        case DataType::kQ4_0:
            return &DecodeRows<LoadQ4_0>;
        case DataType::kQ4_1:
            return &DecodeRows<LoadQ4_1>;
        case DataType::kQ5_0:
            return &DecodeRows<LoadQ5_0>;
        case DataType::kQ5_1:
            return &DecodeRows<LoadQ5_1>;
        case DataType::kIQ4_NL:
            return &DecodeRows<LoadIQ4_NL>;
        case DataType::kOther:
            break;
    }
    return nullptr;
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {

HWY_EXPORT(DecodeOf);

DecodeFn row_decode(DataType type) { return HWY_DYNAMIC_DISPATCH(DecodeOf)(type); }

void decode_rows(const EncodedRows& rows, float* out) {
    if (rows.type == DataType::kOther) {
        for (int64_t j = 0; j < rows.count; ++j) rows.decoder(rows.data + j * rows.stride, out + j * rows.d, rows.d);
        return;
    }
    const auto d = static_cast<size_t>(rows.d);
    row_decode(rows.type)(rows.data, static_cast<size_t>(rows.stride), static_cast<size_t>(rows.count), d, out, d);
}

}  // namespace atlas::kernels::cpu
#endif
