#include "kernels/attention.h"

#include <cmath>

namespace atlas::kernels {

float alibi_slope(float max_bias, int64_t head, int64_t n_head) {
    if (max_bias <= 0.0f) return 1.0f;
    int64_t power = 1;
    while (power * 2 <= n_head) power *= 2;
    const double step = static_cast<double>(max_bias) / static_cast<double>(power);
    const double exponent =
        head < power ? step * static_cast<double>(head + 1) : step / 2 * static_cast<double>(2 * (head - power) + 1);
    return static_cast<float>(std::exp2(-exponent));
}

}  // namespace atlas::kernels
