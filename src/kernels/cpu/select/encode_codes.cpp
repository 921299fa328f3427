#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/select/encode_codes.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;
using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;
using DI = hn::Rebind<int32_t, DF>;

constexpr size_t kKeys = static_cast<size_t>(kCodeKeys);

float LargestSize(const float* x, size_t n) {
    const size_t lanes = hn::Lanes(DF());
    VF most = hn::Zero(DF());
    size_t i = 0;
    for (; i + lanes <= n; i += lanes) most = hn::Max(most, hn::Abs(hn::LoadU(DF(), x + i)));
    float largest = hn::ReduceMax(DF(), most);
    for (; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
    return largest;
}

/** to = x / scale, rounded, with the scale that makes the largest size `most`; the scale, 0 if all are 0. */
float RoundToBytes(const float* x, size_t n, float most, int8_t* to) {
    const float scale = LargestSize(x, n) / most;
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    for (size_t i = 0; i < n; ++i) to[i] = static_cast<int8_t>(std::lrintf(x[i] * inverse));
    return scale;
}

void MeanOfRows(const float* rows, size_t d, float* mean) {
    const size_t lanes = hn::Lanes(DF());
    const VF part = hn::Set(DF(), 1.0f / static_cast<float>(kCodeKeys));
    size_t i = 0;
    for (; i + lanes <= d; i += lanes) {
        VF sum = hn::Zero(DF());
        for (size_t key = 0; key < kKeys; ++key) sum = hn::Add(sum, hn::LoadU(DF(), rows + key * d + i));
        hn::StoreU(hn::Mul(sum, part), DF(), mean + i);
    }
    for (; i < d; ++i) {
        float sum = 0.0f;
        for (size_t key = 0; key < kKeys; ++key) sum += rows[key * d + i];
        mean[i] = sum / static_cast<float>(kCodeKeys);
    }
}

float EncodeValueMean(const float* values, int64_t d_v, uint64_t keys, int8_t* mean) {
    constexpr size_t kMost = 4096;
    float sum[kMost] = {};
    const auto n = static_cast<size_t>(d_v);
    float count = 0.0f;
    for (size_t key = 0; key < kKeys; ++key) {
        if ((keys >> key & 1) == 0) continue;
        for (size_t i = 0; i < n; ++i) sum[i] += values[key * n + i];
        count += 1.0f;
    }
    for (size_t i = 0; i < n; ++i) {
        sum[i] /= count;
        if (!(std::fabs(sum[i]) <= std::numeric_limits<float>::max())) return std::numeric_limits<float>::quiet_NaN();
    }
    return RoundToBytes(sum, n, 127.0f, mean);
}

bool Finite(const float* x, size_t n) {
    bool finite = true;
    for (size_t i = 0; i < n; ++i) finite &= std::fabs(x[i]) <= std::numeric_limits<float>::max();
    return finite;
}

struct Key {
    float scale;
    float noise;
};

/** Codes of one key's residual y [d]: bytes [d] of 0 … 3. */
HWY_INLINE Key EncodeKey(const float* y, size_t d, uint8_t* levels) {
    const size_t lanes = hn::Lanes(DF());
    VF squares = hn::Zero(DF());
    for (size_t i = 0; i < d; i += lanes) {
        const VF x = hn::LoadU(DF(), y + i);
        squares = hn::MulAdd(x, x, squares);
    }
    const float square = hn::ReduceSum(DF(), squares);
    if (!(square > 0.0f) || !(square <= std::numeric_limits<float>::max())) {  // or it overflowed
        std::memset(levels, 2, d);
        return {0.0f, 0.0f};
    }
    // Four equal steps of a normal distribution lose least with a step of 0.9957 times its deviation.
    const float step = 0.9957f * std::sqrt(square / static_cast<float>(d));
    const VF bound = hn::Set(DF(), step);
    const VF one = hn::Set(DF(), 1.0f);
    const VF three = hn::Set(DF(), 3.0f);
    VF product = hn::Zero(DF());
    VF size = hn::Zero(DF());
    const hn::Rebind<uint8_t, DF> d8;
    for (size_t i = 0; i < d; i += lanes) {
        const VF x = hn::LoadU(DF(), y + i);
        const VF length = hn::IfThenElse(hn::Gt(hn::Abs(x), bound), three, one);
        const VF c = hn::CopySign(length, x);
        product = hn::MulAdd(c, x, product);
        size = hn::MulAdd(length, length, size);
        const auto level = hn::ShiftRight<1>(hn::Add(hn::ConvertTo(DI(), c), hn::Set(DI(), 3)));
        hn::StoreU(hn::DemoteTo(d8, level), d8, levels + i);
    }
    const float along = hn::ReduceSum(DF(), product);
    const float scale = square / along;
    const float noise = scale * scale * hn::ReduceSum(DF(), size) - square;
    return {scale, std::max(noise, 0.0f) / (2.0f * static_cast<float>(d))};
}

bool EncodeCodes(const CodeShape& shape, const float* keys, const float* values, std::byte* page) {
    const auto d = static_cast<size_t>(shape.d);
    const auto d_v = static_cast<size_t>(shape.d_v);
    constexpr size_t kMost = 4096;
    HWY_ALIGN float mean[kMost];
    HWY_ALIGN float residual[kMost];
    uint8_t levels[kMost];
    float factors[3] = {};
    auto* stored = reinterpret_cast<int8_t*>(page + shape.mean);
    MeanOfRows(keys, d, mean);
    MeanOfRows(values, d_v, residual);
    // A sum is finite only if all that it is made of is.
    if (!Finite(mean, d) || !Finite(residual, d_v)) return false;
    factors[1] = RoundToBytes(residual, d_v, 127.0f, reinterpret_cast<int8_t*>(page + shape.value_mean));
    factors[0] = RoundToBytes(mean, d, 127.0f, stored);
    // Residuals are from the mean as it is stored, so that its rounding is no error.
    for (size_t i = 0; i < d; ++i) mean[i] = factors[0] * static_cast<float>(stored[i]);
    auto* codes = reinterpret_cast<uint32_t*>(page);
    auto* key_scale = reinterpret_cast<uint16_t*>(page + shape.key_scale);
    for (size_t key = 0; key < kKeys; ++key) {
        const size_t lanes = hn::Lanes(DF());
        for (size_t i = 0; i < d; i += lanes)
            hn::Store(hn::Sub(hn::LoadU(DF(), keys + key * d + i), hn::Load(DF(), mean + i)), DF(), residual + i);
        const Key made = EncodeKey(residual, d, levels);
        // Halves end at 65504.
        key_scale[key] = hwy::BitCastScalar<uint16_t>(hwy::F16FromF32(std::min(made.scale, 65504.0f)));
        factors[2] += made.noise / static_cast<float>(kKeys);
        for (size_t g = 0; g < d / 16; ++g) {
            uint32_t four[4];
            std::memcpy(four, levels + 16 * g, sizeof four);
            codes[g * kKeys + key] = four[0] | four[1] << 2 | four[2] << 4 | four[3] << 6;
        }
    }
    std::memcpy(page + shape.factors, factors, sizeof factors);
    return true;
}

void QuantiseQueries(const float* exact, int64_t rows, int64_t d, int8_t* codes, float* scale, float* offset,
                     float* squares) {
    const auto most = static_cast<float>(largest_query_code(d));
    const auto n = static_cast<size_t>(d);
    for (int64_t row = 0; row < rows; ++row) {
        const float* x = exact + row * d;
        int8_t* to = codes + row * d;
        scale[row] = RoundToBytes(x, n, most, to);
        int32_t sum = 0;
        float square = 0.0f;
        for (size_t i = 0; i < n; ++i) {
            sum += to[i];
            square += x[i] * x[i];
        }
        offset[row] = -3.0f * static_cast<float>(sum);
        squares[row] = square;
    }
}

/** Walsh–Hadamard transform of n values, a power of two, times n^(−1/2). */
HWY_INLINE void Hadamard(float* x, size_t n) {
    const size_t lanes = hn::Lanes(DF());
    for (size_t half = 1; half < n; half *= 2) {
        for (size_t block = 0; block < n; block += 2 * half) {
            float* a = x + block;
            float* b = a + half;
            size_t i = 0;
            if (half >= lanes) {
                for (; i < half; i += lanes) {
                    const VF u = hn::LoadU(DF(), a + i);
                    const VF w = hn::LoadU(DF(), b + i);
                    hn::StoreU(hn::Add(u, w), DF(), a + i);
                    hn::StoreU(hn::Sub(u, w), DF(), b + i);
                }
            }
            for (; i < half; ++i) {
                const float u = a[i];
                a[i] = u + b[i];
                b[i] = u - b[i];
            }
        }
    }
    const float size = 1.0f / std::sqrt(static_cast<float>(n));
    for (size_t i = 0; i < n; ++i) x[i] *= size;
}

void RotateRows(const float* signs, int64_t rows, int64_t d, float* x) {
    const auto n = static_cast<size_t>(d);
    const bool whole = std::has_single_bit(n);
    for (int64_t row = 0; row < rows; ++row) {
        float* at = x + static_cast<size_t>(row) * n;
        for (size_t i = 0; i < n; ++i) at[i] *= signs[i];
        for (size_t begin = 0; begin < n;) {
            const size_t part = std::bit_floor(n - begin);
            Hadamard(at + begin, part);
            begin += part;
        }
        if (whole) continue;
        // Parts from the other end mix what the first ones left apart.
        for (size_t i = 0; i < n; ++i) at[i] *= signs[n + i];
        for (size_t end = n; end > 0;) {
            const size_t part = std::bit_floor(end);
            Hadamard(at + end - part, part);
            end -= part;
        }
    }
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {

HWY_EXPORT(EncodeCodes);
HWY_EXPORT(EncodeValueMean);
HWY_EXPORT(QuantiseQueries);
HWY_EXPORT(RotateRows);

bool encode_codes(const CodeShape& shape, const float* keys, const float* values, std::byte* page) {
    return HWY_DYNAMIC_DISPATCH(EncodeCodes)(shape, keys, values, page);
}
void rotate_rows(const float* signs, int64_t rows, int64_t d, float* x) {
    HWY_DYNAMIC_DISPATCH(RotateRows)(signs, rows, d, x);
}
float encode_value_mean(const float* values, int64_t d_v, uint64_t keys, int8_t* mean) {
    return HWY_DYNAMIC_DISPATCH(EncodeValueMean)(values, d_v, keys, mean);
}
void quantise_queries(const float* exact, int64_t rows, int64_t d, int8_t* codes, float* scale, float* offset,
                      float* squares) {
    HWY_DYNAMIC_DISPATCH(QuantiseQueries)(exact, rows, d, codes, scale, offset, squares);
}

}  // namespace atlas::kernels::cpu
#endif
