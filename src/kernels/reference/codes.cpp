#include "kernels/reference/reference.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <vector>

#include "kernels/row_codec.h"

namespace atlas::kernels::reference {
namespace {

constexpr auto kKeys = static_cast<size_t>(kCodeKeys);

/** to = x / scale, rounded, with the scale that makes the largest size `most`; the scale, 0 if all are 0. */
float round_to_bytes(const std::vector<double>& x, int32_t most, int8_t* to) {
    double largest = 0.0;
    for (const double v : x) largest = std::max(largest, std::fabs(v));
    const auto scale = static_cast<float>(largest / most);
    for (size_t i = 0; i < x.size(); ++i)
        to[i] = scale > 0.0f ? static_cast<int8_t>(std::lrint(x[i] / static_cast<double>(scale))) : int8_t{0};
    return scale;
}

/** Of the rows [64][d] whose bit is set. */
std::vector<double> mean_of_rows(const float* rows, size_t d, uint64_t keys) {
    std::vector<double> mean(d);
    for (size_t key = 0; key < kKeys; ++key) {
        if ((keys >> key & 1) == 0) continue;
        for (size_t i = 0; i < d; ++i) mean[i] += static_cast<double>(rows[key * d + i]) / std::popcount(keys);
    }
    return mean;
}

bool finite(const std::vector<double>& x) {
    return std::all_of(x.begin(), x.end(), [](double v) { return std::fabs(v) <= std::numeric_limits<float>::max(); });
}

/** Bits of dimension i of a key: see CodeShape. */
uint32_t& word_of(std::byte* page, size_t key, size_t i) {
    return reinterpret_cast<uint32_t*>(page)[i / 16 * kKeys + key];
}
size_t shift_of(size_t i) { return 8 * (i % 4) + 2 * (i % 16 / 4); }

double float_at(const std::byte* page, size_t offset) {
    float value;
    std::memcpy(&value, page + offset, sizeof value);
    return static_cast<double>(value);
}

/** x [n], n a power of two, becomes its Walsh–Hadamard transform times n^(−1/2), by the definition. */
void hadamard(double* x, size_t n) {
    std::vector<double> result(n);
    for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < n; ++j) result[i] += std::popcount(i & j) % 2 == 0 ? x[j] : -x[j];
        result[i] /= std::sqrt(static_cast<double>(n));
    }
    std::copy(result.begin(), result.end(), x);
}

}  // namespace

bool encode_codes(const CodeShape& shape, const float* keys, const float* values, std::byte* page) {
    const auto d = static_cast<size_t>(shape.d);
    std::vector<double> mean = mean_of_rows(keys, d, ~uint64_t{0});
    const std::vector<double> value_mean = mean_of_rows(values, static_cast<size_t>(shape.d_v), ~uint64_t{0});
    if (!finite(mean) || !finite(value_mean)) return false;
    auto* stored = reinterpret_cast<int8_t*>(page + shape.mean);
    float factors[3] = {round_to_bytes(mean, 127, stored),
                        round_to_bytes(value_mean, 127, reinterpret_cast<int8_t*>(page + shape.value_mean)), 0.0f};
    double noise = 0.0;
    for (size_t key = 0; key < kKeys; ++key) {
        // Residuals are from the mean as it is stored.
        std::vector<double> y(d);
        double square = 0.0;
        for (size_t i = 0; i < d; ++i) {
            y[i] = static_cast<double>(keys[key * d + i]) - static_cast<double>(factors[0]) * stored[i];
            square += y[i] * y[i];
        }
        const double step = 0.9957 * std::sqrt(square / static_cast<double>(d));
        double along = 0.0, size = 0.0;
        for (size_t i = 0; i < d; ++i) {
            const double c = std::copysign(std::fabs(y[i]) > step ? 3.0 : 1.0, y[i]);
            along += c * y[i];
            size += c * c;
            uint32_t& word = word_of(page, key, i);
            word &= ~(3u << shift_of(i));
            word |= static_cast<uint32_t>((c + 3.0) / 2.0) << shift_of(i);
        }
        const double scale = square > 0.0 ? square / along : 0.0;
        noise +=
            std::max(scale * scale * size - square, 0.0) / (2.0 * static_cast<double>(d)) / static_cast<double>(kKeys);
        const uint16_t half = f32_to_f16(static_cast<float>(std::min(scale, 65504.0)));
        std::memcpy(page + shape.key_scale + key * sizeof half, &half, sizeof half);
    }
    factors[2] = static_cast<float>(noise);
    std::memcpy(page + shape.factors, factors, sizeof factors);
    return true;
}

float encode_value_mean(const float* values, int64_t d_v, uint64_t keys, int8_t* mean) {
    const std::vector<double> of_keys = mean_of_rows(values, static_cast<size_t>(d_v), keys);
    return finite(of_keys) ? round_to_bytes(of_keys, 127, mean) : std::numeric_limits<float>::quiet_NaN();
}

void quantise_queries(const float* exact, int64_t rows, int64_t d, int8_t* codes, float* scale, float* offset,
                      float* squares) {
    for (int64_t row = 0; row < rows; ++row) {
        const std::vector<double> x(exact + row * d, exact + (row + 1) * d);
        scale[row] = round_to_bytes(x, largest_query_code(d), codes + row * d);
        double sum = 0.0, square = 0.0;
        for (size_t i = 0; i < x.size(); ++i) {
            sum += codes[row * d + static_cast<int64_t>(i)];
            square += x[i] * x[i];
        }
        offset[row] = static_cast<float>(-3.0 * sum);
        squares[row] = static_cast<float>(square);
    }
}

void rotate_rows(const float* signs, int64_t rows, int64_t d, float* x) {
    const auto n = static_cast<size_t>(d);
    for (int64_t row = 0; row < rows; ++row) {
        std::vector<double> y(x + row * d, x + (row + 1) * d);
        for (size_t i = 0; i < n; ++i) y[i] *= static_cast<double>(signs[i]);
        for (size_t begin = 0; begin < n; begin += std::bit_floor(n - begin))
            hadamard(y.data() + begin, std::bit_floor(n - begin));
        if (!std::has_single_bit(n)) {
            for (size_t i = 0; i < n; ++i) y[i] *= static_cast<double>(signs[n + i]);
            for (size_t end = n; end > 0; end -= std::bit_floor(end))
                hadamard(y.data() + end - std::bit_floor(end), std::bit_floor(end));
        }
        for (size_t i = 0; i < n; ++i) x[static_cast<size_t>(row) * n + i] = static_cast<float>(y[i]);
    }
}

void score_codes(const CodeShape& shape, const CodeQueries& queries, const std::byte* page, float* logits) {
    const auto d = static_cast<size_t>(shape.d);
    const auto* mean = reinterpret_cast<const int8_t*>(page + shape.mean);
    for (size_t row = 0; row < static_cast<size_t>(queries.rows); ++row) {
        for (size_t key = 0; key < kKeys; ++key) {
            uint16_t half;
            std::memcpy(&half, page + shape.key_scale + key * sizeof half, sizeof half);
            double of_mean = 0.0, of_codes = 0.0;
            for (size_t i = 0; i < d; ++i) {
                uint32_t word;
                std::memcpy(&word, page + (i / 16 * kKeys + key) * sizeof word, sizeof word);
                const double c = 2.0 * static_cast<double>(word >> shift_of(i) & 3) - 3.0;
                of_mean += static_cast<double>(queries.exact[row * d + i]) * mean[i];
                of_codes += c * queries.codes[row * d + i];
            }
            logits[row * kKeys + key] = static_cast<float>(float_at(page, shape.factors) * of_mean +
                                                           static_cast<double>(f16_to_f32(half)) *
                                                               static_cast<double>(queries.scale[row]) * of_codes);
        }
    }
}

void cap_scores(float* values, int64_t n, float cap) {
    for (int64_t i = 0; i < n; ++i)
        values[i] = static_cast<float>(static_cast<double>(cap) *
                                       std::tanh(static_cast<double>(values[i]) / static_cast<double>(cap)));
}

void add_mask(const uint16_t* mask, int64_t count, float factor, float* logits) {
    for (int64_t i = 0; i < count; ++i)
        logits[i] = static_cast<float>(static_cast<double>(logits[i]) +
                                       static_cast<double>(factor) * static_cast<double>(f16_to_f32(mask[i])));
}

void weigh_scores(float* values, int64_t rows, const float* shift, float* sums, float* most) {
    for (int64_t row = 0; row < rows; ++row) {
        double sum = 0.0;
        most[row] = 0.0f;
        for (int64_t key = 0; key < kCodeKeys; ++key) {
            float& value = values[row * kCodeKeys + key];
            const double x = std::min(static_cast<double>(value) - static_cast<double>(shift[row]), 100.0);
            // NaN compares false: nothing.
            value = static_cast<double>(value) - static_cast<double>(shift[row]) >= -126.0
                        ? static_cast<float>(std::exp2(x))
                        : 0.0f;
            sum += static_cast<double>(value);
            most[row] = std::max(most[row], value);
        }
        sums[row] = static_cast<float>(sum);
    }
}

void weigh_codes(const CodeShape& shape, const CodeQueries& queries, const std::byte* page, const std::byte*,
                 const float* shift, float* weights, float* sums, float* most) {
    reference::score_codes(shape, queries, page, weights);
    reference::weigh_scores(weights, queries.rows, shift, sums, most);
}

void share_of_keys(const float* weights, int64_t tokens, int64_t group, const float* factor, float* shares) {
    for (int64_t key = 0; key < kCodeKeys; ++key) {
        double largest = 0.0;
        for (int64_t token = 0; token < tokens; ++token) {
            double sum = 0.0;
            for (int64_t row = token * group; row < (token + 1) * group; ++row)
                sum += static_cast<double>(weights[row * kCodeKeys + key]) * static_cast<double>(factor[row]);
            largest = std::max(largest, sum);
        }
        shares[key] = static_cast<float>(largest);
    }
}

uint64_t keys_at_least(const float* shares, float least) {
    uint64_t keys = 0;
    for (size_t key = 0; key < kKeys; ++key) keys |= uint64_t{shares[key] >= least} << key;
    return keys;
}

void sum_weights(const float* weights, int64_t rows, uint64_t keys, float* sums) {
    for (int64_t row = 0; row < rows; ++row) {
        double sum = 0.0;
        for (int64_t key = 0; key < kCodeKeys; ++key) {
            if ((keys >> key & 1) != 0) sum += static_cast<double>(weights[row * kCodeKeys + key]);
        }
        sums[row] = static_cast<float>(sum);
    }
}

void add_rest(const CodeShape& shape, const std::byte* page, const float* sums, const float* squares, int64_t rows,
              float* total, float* out) {
    const ValueMean value = value_mean_of(shape, page);
    const auto noise = static_cast<double>(noise_of_codes(shape, page));
    for (int64_t row = 0; row < rows; ++row) {
        const double trust =
            std::exp2(std::max(-std::numbers::ln2 * static_cast<double>(squares[row]) * noise, -126.0));
        const double w = static_cast<double>(sums[row]) * trust;
        total[row] += static_cast<float>(w);
        for (int64_t i = 0; i < shape.d_v; ++i)
            out[row * shape.d_v + i] += static_cast<float>(w * static_cast<double>(value.scale) * value.mean[i]);
    }
}

void add_value_mean(const ValueMean& value, int64_t d_v, const float* weights, int64_t rows, float* out) {
    for (int64_t row = 0; row < rows; ++row) {
        for (int64_t i = 0; i < d_v; ++i) {
            float& to = out[row * d_v + i];
            to = static_cast<float>(static_cast<double>(to) + static_cast<double>(weights[row]) *
                                                                  static_cast<double>(value.scale) * value.mean[i]);
        }
    }
}

}  // namespace atlas::kernels::reference
