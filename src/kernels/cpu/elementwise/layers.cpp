#include "kernels/layers.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise/layers.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "kernels/cpu/elementwise/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {
void RmsNorm(const float* x, size_t n, float epsilon, float* y) {
    if (n == 0) return;
    const D d;
    const size_t lanes = hn::Lanes(d);
    double squares = 0.0;
    for (size_t begin = 0; begin < n; begin += 1024) {
        const size_t end = std::min(n, begin + 1024);
        V sum = hn::Zero(d), other = hn::Zero(d);
        size_t i = begin;
        for (; i + 2 * lanes <= end; i += 2 * lanes) {
            const V v = hn::LoadU(d, x + i), w = hn::LoadU(d, x + i + lanes);
            sum = hn::MulAdd(v, v, sum);
            other = hn::MulAdd(w, w, other);
        }
        for (; i < end; i += lanes) {
            const V v = hn::LoadN(d, x + i, std::min(lanes, end - i));
            sum = hn::MulAdd(v, v, sum);
        }
        squares += static_cast<double>(hn::ReduceSum(d, hn::Add(sum, other)));
    }
    const V scale = hn::Set(
        d, static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(n) + static_cast<double>(epsilon))));
    Zip(x, x, n, y, [&](V v, V) HWY_ATTR { return hn::Mul(v, scale); });
}

void Add(const float* a, const float* b, size_t n, float* sum) {
    Zip(a, b, n, sum, [](V v, V w) HWY_ATTR { return hn::Add(v, w); });
}

void Product(const float* a, const float* b, size_t n, float* y) {
    Zip(a, b, n, y, [](V v, V w) HWY_ATTR { return hn::Mul(v, w); });
}

/** x·σ(u). */
HWY_INLINE V TimesSigmoid(V x, V u) { return hn::Div(x, hn::Add(hn::Set(D(), 1.0f), ExpOfMinus(u))); }

void Gated(Gate gate, const float* x, const float* up, size_t n, float* y) {
    const D d;
    switch (gate) {
        case Gate::kReLU:
            // Not Max: NaN goes through.
            return Zip(x, up, n, y,
                       [&](V v, V w) HWY_ATTR { return hn::Mul(hn::IfThenZeroElse(hn::Lt(v, hn::Zero(d)), v), w); });
        case Gate::kGELU:
            return Zip(x, up, n, y,
                       [](V v, V w) HWY_ATTR { return hn::Mul(TimesSigmoid(v, GeluArgument(v, hn::Mul(v, v))), w); });
        case Gate::kSiLU:
            return Zip(x, up, n, y, [&](V v, V w) HWY_ATTR { return hn::Mul(TimesSigmoid(v, v), w); });
    }
}

HWY_INLINE void Turn(V* a, V* b, V cosine, V sine) {
    const V x = *a;
    *a = hn::NegMulAdd(*b, sine, hn::Mul(x, cosine));
    *b = hn::MulAdd(*b, cosine, hn::Mul(x, sine));
}

void RotatePairs(RopePairs which, const float* x, const float* cosines, const float* sines, size_t pairs, float* y) {
    const D d;
    const size_t lanes = hn::Lanes(d);
    const size_t step = which == RopePairs::kAdjacent ? 2 : 1;
    const size_t other = which == RopePairs::kAdjacent ? 1 : pairs;
    size_t i = 0;
    for (; i + lanes <= pairs; i += lanes) {
        const V c = hn::LoadU(d, cosines + i), s = hn::LoadU(d, sines + i);
        V a, b;
        if (which == RopePairs::kAdjacent) {
            hn::LoadInterleaved2(d, x + 2 * i, a, b);
            Turn(&a, &b, c, s);
            hn::StoreInterleaved2(a, b, d, y + 2 * i);
        } else {
            a = hn::LoadU(d, x + i);
            b = hn::LoadU(d, x + pairs + i);
            Turn(&a, &b, c, s);
            hn::StoreU(a, d, y + i);
            hn::StoreU(b, d, y + pairs + i);
        }
    }
    for (; i < pairs; ++i) {
        const float a = x[i * step], b = x[i * step + other];
        y[i * step] = a * cosines[i] - b * sines[i];
        y[i * step + other] = a * sines[i] + b * cosines[i];
    }
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {
HWY_EXPORT(RmsNorm);
HWY_EXPORT(Add);
HWY_EXPORT(Product);
HWY_EXPORT(Gated);
HWY_EXPORT(RotatePairs);

void rms_norm(const float* x, size_t n, float epsilon, float* y) { HWY_DYNAMIC_DISPATCH(RmsNorm)(x, n, epsilon, y); }
void add(const float* a, const float* b, size_t n, float* sum) { HWY_DYNAMIC_DISPATCH(Add)(a, b, n, sum); }
void product(const float* a, const float* b, size_t n, float* y) { HWY_DYNAMIC_DISPATCH(Product)(a, b, n, y); }
void gated(Gate gate, const float* x, const float* up, size_t n, float* y) {
    HWY_DYNAMIC_DISPATCH(Gated)(gate, x, up, n, y);
}
void rotate_pairs(RopePairs which, const float* x, const float* cosines, const float* sines, size_t pairs, float* y) {
    HWY_DYNAMIC_DISPATCH(RotatePairs)(which, x, cosines, sines, pairs, y);
}

}  // namespace atlas::kernels::cpu
#endif
