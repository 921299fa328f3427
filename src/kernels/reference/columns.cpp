#include "kernels/reference/columns.h"

#include <cstring>

#include "kernels/row_codec.h"

namespace atlas::kernels::reference {
namespace {

double element(const ColumnSum& sum, int32_t column, int64_t row) {
    const std::byte* at = sum.columns + static_cast<size_t>(column) * sum.stride;
    if (sum.type == WeightType::kF32) {
        float value;
        std::memcpy(&value, at + static_cast<size_t>(row) * sizeof value, sizeof value);
        return static_cast<double>(value);
    }
    uint16_t bits;
    std::memcpy(&bits, at + static_cast<size_t>(row) * sizeof bits, sizeof bits);
    if (sum.type == WeightType::kF16) return static_cast<double>(f16_to_f32(bits));
    const uint32_t word = uint32_t{bits} << 16;
    float value;
    std::memcpy(&value, &word, sizeof value);
    return static_cast<double>(value);
}

}  // namespace

void add_columns(const ColumnSum& sum) {
    for (int64_t row = 0; row < sum.n; ++row) {
        auto total = static_cast<double>(sum.y[row]);
        for (int64_t j = 0; j < sum.count; ++j)
            total += static_cast<double>(sum.factors[j]) * element(sum, sum.which[j], row);
        sum.y[row] = static_cast<float>(total);
    }
}

}  // namespace atlas::kernels::reference
