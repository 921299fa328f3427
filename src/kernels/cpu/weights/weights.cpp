#include "kernels/cpu/cpu.h"
#include "kernels/cpu/amx/usable.h"
#include "kernels/cpu/weights/amx/amx.h"
#include "kernels/cpu/weights/few.h"
#include "kernels/cpu/weights/panel.h"

namespace atlas::kernels::cpu {

PanelKind panel_kind(WeightType type) {
    switch (type) {
        case WeightType::kQ8_0:
        case WeightType::kIQ4_NL:
        case WeightType::kIQ4_XS:
            return {32, 128, 255, false};
        case WeightType::kQ4_0:
            return {32, 8, 15, false};
        case WeightType::kQ5_0:
            return {32, 16, 31, false};
        case WeightType::kMXFP4:
            return {32, 12, 31, false};
        case WeightType::kQ4_1:
        case WeightType::kQ4_K:
            return {32, 0, 15, true};
        case WeightType::kQ5_1:
        case WeightType::kQ5_K:
            return {32, 0, 31, true};
        case WeightType::kQ2_K:
            return {16, 0, 15, true};
        case WeightType::kQ3_K:
            return {16, 4, 15, false};
        case WeightType::kQ6_K:
            return {16, 32, 63, false};
        case WeightType::kF32:
        case WeightType::kF16:
        case WeightType::kBF16:
        case WeightType::kE4M3:
            break;
    }
    return {};
}

void multiply_weights(const WeightProduct& product, int64_t begin, int64_t end) {
    if (product.n <= 0 || begin >= end) return;
    const WeightType type = product.weights.type;
    const int32_t block = weight_type_info(type).block_elements;
    if (product.n <= kFewColumns && product.weights.cols <= static_cast<int64_t>(kFewCols)) {
        const FewArgs args(product, begin, end);
        return type == WeightType::kE4M3 ? multiply_few_e4m3(args)
               : block == 1              ? multiply_few_floats(args)
               : block == 32             ? multiply_few_32(args)
                                         : multiply_few_256(args);
    }
    const bool floats = block == 1 || type == WeightType::kE4M3;
    const bool amx = type != WeightType::kF32 && amx_usable();
    if (amx && floats) {
        multiply_floats_amx(product, begin, end);
    } else if (amx) {
        multiply_blocks_amx(product, begin, end);
    } else if (floats) {
        multiply_floats(product, begin, end);
    } else {
        multiply_blocks(product, begin, end);
    }
}

}  // namespace atlas::kernels::cpu
