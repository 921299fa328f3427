#include <bit>
#include <vector>

#include "kernels/reference/reference.h"

namespace atlas::kernels::reference {

Status add_values(const ValueSum& sum) {
    const RowDecoder decode = sum.v_type == DataType::kOther ? sum.v_decode : row_decoder(sum.v_type);
    const auto d = static_cast<size_t>(sum.d_v);
    std::vector<float> value(d);
    std::vector<double> total(static_cast<size_t>(sum.rows) * d);
    int64_t key = 0;
    const auto add = [&](const std::byte* row) {
        decode(row, value.data(), sum.d_v);
        for (int64_t r = 0; r < sum.rows; ++r) {
            const double weight = sum.weights[r * sum.weights_stride + key];
            for (size_t i = 0; i < d; ++i) total[static_cast<size_t>(r) * d + i] += weight * value[i];
        }
        ++key;
    };
    for (const Run& run : sum.runs->runs) {
        const std::byte* first = run.v + sum.runs->v_offset;
        if (run.has_gaps()) {
            for (uint64_t cells = run.cells; cells != 0; cells &= cells - 1)
                add(first + std::countr_zero(cells) * sum.v_stride);
        } else {
            for (int64_t j = 0; j < run.count; ++j) add(first + j * sum.v_stride);
        }
    }
    for (size_t i = 0; i < total.size(); ++i) sum.out[i] = static_cast<float>(sum.out[i] + total[i]);
    return Status::ok();
}

}  // namespace atlas::kernels::reference
