#include "kernels/block_moments.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/select/block_moments.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;

void RowProducts(const float* rows, size_t n, size_t d, const float* t, float* out) {
    const D tag;
    const size_t lanes = hn::Lanes(tag);
    for (size_t j = 0; j < n; ++j, rows += d) {
        V even = hn::Zero(tag);
        V odd = hn::Zero(tag);
        size_t i = 0;
        for (; i + 2 * lanes <= d; i += 2 * lanes) {
            even = hn::MulAdd(hn::LoadU(tag, rows + i), hn::LoadU(tag, t + i), even);
            odd = hn::MulAdd(hn::LoadU(tag, rows + i + lanes), hn::LoadU(tag, t + i + lanes), odd);
        }
        float sum = hn::ReduceSum(tag, hn::Add(even, odd));
        for (; i < d; ++i) sum += rows[i] * t[i];
        out[j] = sum;
    }
}

void WeightedSum(const float* rows, size_t n, size_t d, const float* weights, const float* offset, float* sum) {
    const D tag;
    const size_t lanes = hn::Lanes(tag);
    size_t i = 0;
    for (; i + lanes <= d; i += lanes) {
        const V from = offset ? hn::LoadU(tag, offset + i) : hn::Zero(tag);
        V even = hn::Zero(tag);
        V odd = hn::Zero(tag);
        size_t j = 0;
        for (; j + 2 <= n; j += 2) {
            even = hn::MulAdd(hn::Set(tag, weights[j]), hn::Sub(hn::LoadU(tag, rows + j * d + i), from), even);
            odd = hn::MulAdd(hn::Set(tag, weights[j + 1]), hn::Sub(hn::LoadU(tag, rows + (j + 1) * d + i), from), odd);
        }
        if (j < n) even = hn::MulAdd(hn::Set(tag, weights[j]), hn::Sub(hn::LoadU(tag, rows + j * d + i), from), even);
        hn::StoreU(hn::Add(even, odd), tag, sum + i);
    }
    for (; i < d; ++i) {
        const float from = offset ? offset[i] : 0.0f;
        float total = 0.0f;
        for (size_t j = 0; j < n; ++j) total += weights[j] * (rows[j * d + i] - from);
        sum[i] = total;
    }
}

/** The two dimensions of lanes p… of a row. */
HWY_INLINE void LoadPairs(D tag, const float* row, size_t p, size_t half, bool adjacent, V& a, V& b) {
    if (adjacent) {
        hn::LoadInterleaved2(tag, row + 2 * p, a, b);
    } else {
        a = hn::LoadU(tag, row + p);
        b = hn::LoadU(tag, row + half + p);
    }
}

void PairDistances(const float* rows, size_t n, size_t d, bool adjacent, const float* weights, const float* mean,
                   float* spread, float* reach) {
    const D tag;
    const size_t lanes = hn::Lanes(tag);
    const size_t half = d / 2;
    size_t p = 0;
    for (; p + lanes <= half; p += lanes) {
        V mean_a, mean_b;
        LoadPairs(tag, mean, p, half, adjacent, mean_a, mean_b);
        V sum = hn::Zero(tag);
        V largest = hn::Zero(tag);
        for (size_t j = 0; j < n; ++j) {
            V a, b;
            LoadPairs(tag, rows + j * d, p, half, adjacent, a, b);
            a = hn::Sub(a, mean_a);
            b = hn::Sub(b, mean_b);
            const V square = hn::MulAdd(a, a, hn::Mul(b, b));
            sum = hn::MulAdd(hn::Set(tag, weights[j]), square, sum);
            largest = hn::Max(largest, square);
        }
        hn::StoreU(hn::Sqrt(sum), tag, spread + p);
        hn::StoreU(hn::Sqrt(largest), tag, reach + p);
    }
    for (; p < half; ++p) {
        const size_t first = adjacent ? 2 * p : p;
        const size_t second = adjacent ? 2 * p + 1 : p + half;
        float sum = 0.0f;
        float largest = 0.0f;
        for (size_t j = 0; j < n; ++j) {
            const float a = rows[j * d + first] - mean[first];
            const float b = rows[j * d + second] - mean[second];
            sum += weights[j] * (a * a + b * b);
            largest = HWY_MAX(largest, a * a + b * b);
        }
        spread[p] = hn::GetLane(hn::Sqrt(hn::Set(tag, sum)));
        reach[p] = hn::GetLane(hn::Sqrt(hn::Set(tag, largest)));
    }
}

}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels {
namespace cpu {
HWY_EXPORT(RowProducts);
HWY_EXPORT(WeightedSum);
HWY_EXPORT(PairDistances);
}  // namespace cpu

using namespace cpu;

void row_products(const float* rows, size_t n, size_t d, const float* t, float* out) {
    HWY_DYNAMIC_DISPATCH(RowProducts)(rows, n, d, t, out);
}

void weighted_sum(const float* rows, size_t n, size_t d, const float* weights, const float* offset, float* sum) {
    HWY_DYNAMIC_DISPATCH(WeightedSum)(rows, n, d, weights, offset, sum);
}

void pair_distances(const float* rows, size_t n, size_t d, bool adjacent, const float* weights, const float* mean,
                    float* spread, float* reach) {
    HWY_DYNAMIC_DISPATCH(PairDistances)(rows, n, d, adjacent, weights, mean, spread, reach);
}

}  // namespace atlas::kernels
#endif
