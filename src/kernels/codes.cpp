#include "kernels/codes.h"

#include <cstring>

namespace atlas::kernels {

CodeShape::CodeShape(int64_t d_k, int64_t d_v) : d((d_k + 15) / 16 * 16), d_v(d_v) {
    const auto keys = static_cast<size_t>(kCodeKeys);
    key_scale = static_cast<size_t>(d) / 16 * keys * sizeof(uint32_t);
    mean = key_scale + keys * sizeof(uint16_t);
    value_mean = mean + static_cast<size_t>(d);
    factors = (value_mean + static_cast<size_t>(d_v) + 3) / 4 * 4;
    bytes = (factors + 3 * sizeof(float) + 63) / 64 * 64;
}

float noise_of_codes(const CodeShape& shape, const std::byte* page) {
    float noise;
    std::memcpy(&noise, page + shape.factors + 2 * sizeof noise, sizeof noise);
    return noise;
}

ValueMean value_mean_of(const CodeShape& shape, const std::byte* page) {
    float scale;
    std::memcpy(&scale, page + shape.factors + sizeof scale, sizeof scale);
    return {reinterpret_cast<const int8_t*>(page + shape.value_mean), scale};
}

int32_t largest_query_code(int64_t d) {
    // A 16-bit lane sums two of every four dimensions, products are at most 3 · code.
    const int64_t most = 32767 / (3 * 2 * (d / 4));
    return static_cast<int32_t>(most < 127 ? most : 127);
}

}  // namespace atlas::kernels
