#include "kernels/weights.h"

#include "kernels/e4m3.h"

namespace atlas::kernels {
namespace {

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

const WeightTypeInfo& weight_type_info(WeightType type) {
    using enum ActivationType;
    static constexpr WeightTypeInfo kInfos[kWeightTypeCount] = {
        {"f32", 1, 4, kF32},
        {"f16", 1, 2, kF16},
        {"bf16", 1, 2, kBF16},
        {"q8_0", 32, 34, kQ8},
        {"q4_0", 32, 18, kQ8},
        {"q4_1", 32, 20, kQ8},
        {"q5_0", 32, 22, kQ8},
        {"q5_1", 32, 24, kQ8},
        {"iq4_nl", 32, 18, kQ8},
        {"mxfp4", 32, 17, kQ8},
        {"q2_K", 256, 84, kQ8K},
        {"q3_K", 256, 110, kQ8K},
        {"q4_K", 256, 144, kQ8K},
        {"q5_K", 256, 176, kQ8K},
        {"q6_K", 256, 210, kQ8K},
        {"iq4_xs", 256, 136, kQ8K},
        {"e4m3_64", kE4M3Block, kE4M3BlockBytes, kShiftedBF16},
    };
    return kInfos[static_cast<int>(type)];
}

size_t weight_row_bytes(WeightType type, int64_t cols) {
    const WeightTypeInfo& info = weight_type_info(type);
    return static_cast<size_t>(cols / info.block_elements) * static_cast<size_t>(info.block_bytes);
}

ActivationLayout::ActivationLayout(ActivationType type, int64_t k) {
    const auto count = static_cast<size_t>(k);
    const auto plane = [this](size_t* offset, size_t size) {
        *offset = bytes;
        bytes += round_up(size, 64);
    };
    switch (type) {
        case ActivationType::kF32:
        case ActivationType::kF16:
            plane(&values, round_up(count, 64) * 4);
            if (type == ActivationType::kF32) break;
            plane(&high, round_up(count, 64) * 2);
            plane(&low, round_up(count, 64) * 2);
            break;
        case ActivationType::kBF16:
        case ActivationType::kShiftedBF16:
            plane(&values, round_up(count, 64) * 2);
            break;
        case ActivationType::kQ8:
        case ActivationType::kQ8K: {
            const size_t padded = round_up(count, 512);
            plane(&codes, padded);
            plane(&split_codes, padded);
            if (type == ActivationType::kQ8) {
                plane(&scales, padded / 32 * 4);
                plane(&sums, padded / 32 * 4);
                plane(&offsets, padded / 32 * 4);
            } else {
                plane(&scales, padded / 256 * 4);
                plane(&sums, padded / 16 * 4);
                plane(&short_sums, padded / 16 * 2);
                plane(&byte_sums, padded / 256 * 32 + 64);  // read in tiles of 64 bytes
            }
            plane(&lane_sums, padded / 128 * 64);
            break;
        }
    }
    if (bytes / 64 % 2 == 0) bytes += 64;
}

size_t activation_bytes(ActivationType type, int64_t k, int64_t n) {
    return ActivationLayout(type, k).bytes * static_cast<size_t>(n);
}

}  // namespace atlas::kernels
