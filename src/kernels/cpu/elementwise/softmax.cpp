#include "kernels/cpu/elementwise/softmax.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise/softmax.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;
inline constexpr size_t kLanes = HWY_MIN(HWY_MAX_BYTES / sizeof(float), size_t{16});

/** e^x for x ≤ 0 or moderate; relative error below 1e-7 · |x|-independent part; exactly 0 below −87.3; NaN for NaN. */
HWY_INLINE V Exp(V x) {
    const D d;
    const hn::Rebind<int32_t, D> d32;
    const V clamped = hn::Max(x, hn::Set(d, -87.3f));
    const V n = hn::Round(hn::Mul(clamped, hn::Set(d, 1.44269504f)));
    // ln 2 in two parts: n · high is exact.
    V r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), clamped);
    r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);
    // Taylor to the sixth degree: |r| ≤ 0.347, remainder below 1.2e-7.
    V p = hn::Set(d, 1.0f / 720);
    p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 120));
    p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 24));
    p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 6));
    p = hn::MulAdd(p, r, hn::Set(d, 0.5f));
    p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
    p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
    const auto exponent = hn::ShiftLeft<23>(hn::ConvertTo(d32, n));
    const V result = hn::BitCast(d, hn::Add(hn::BitCast(d32, p), exponent));
    const V least = hn::Set(d, -87.3f);
    return hn::IfThenElse(hn::Ge(x, least), result, hn::IfThenZeroElse(hn::Lt(x, least), x));
}

float MaxOf(const float* values, size_t n) {
    const D d;
    V best = hn::Set(d, -HUGE_VALF);
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        // Max() of a NaN differs between processors.
        const V v = hn::LoadU(d, values + i);
        best = hn::IfThenElse(hn::Gt(v, best), v, best);
    }
    float result = hn::ReduceMax(d, best);
    for (; i < n; ++i) result = values[i] > result ? values[i] : result;
    return result;
}

float ExpSum(float* values, size_t n, float shift) {
    const D d;
    const V offset = hn::Set(d, shift);
    V sum = hn::Zero(d);
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const V e = Exp(hn::Sub(hn::LoadU(d, values + i), offset));
        hn::StoreU(e, d, values + i);
        sum = hn::Add(sum, e);
    }
    if (i < n) {
        const V e = hn::IfThenElseZero(hn::FirstN(d, n - i), Exp(hn::Sub(hn::LoadN(d, values + i, n - i), offset)));
        hn::StoreN(e, d, values + i, n - i);
        sum = hn::Add(sum, e);
    }
    return hn::ReduceSum(d, sum);
}

void ScaleBy(float* values, size_t n, float factor) {
    const D d;
    const V f = hn::Set(d, factor);
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) hn::StoreU(hn::Mul(hn::LoadU(d, values + i), f), d, values + i);
    for (; i < n; ++i) values[i] *= factor;
}

bool AllFinite(const float* values, size_t n) {
    // x − x and 0·x are NaN for infinities and NaN, and the sum of zeros stays 0.
    const D d;
    V sum = hn::Zero(d);
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const V v = hn::LoadU(d, values + i);
        sum = hn::Add(sum, hn::Sub(v, v));
    }
    float rest = 0.0f;
    for (; i < n; ++i) rest += values[i] * 0.0f;
    return hn::ReduceSum(d, sum) + rest == 0.0f;
}

void SoftCap(float* values, size_t n, float cap) {
    // tanh(x) = sign(x)·(1 − e^{−2|x|}) / (1 + e^{−2|x|}); for small |x| the odd series avoids the cancellation in 1 − e^{−2|x|}.
    const D d;
    const V one = hn::Set(d, 1.0f);
    for (size_t i = 0; i < n; i += kLanes) {
        const size_t left = HWY_MIN(kLanes, n - i);
        const V x = hn::LoadN(d, values + i, left);
        const V a = hn::Abs(x);
        const V e = Exp(hn::Mul(a, hn::Set(d, -2.0f)));
        const V big = hn::Div(hn::Sub(one, e), hn::Add(one, e));
        const V a2 = hn::Mul(a, a);
        V series = hn::Set(d, -17.0f / 315);
        series = hn::MulAdd(series, a2, hn::Set(d, 2.0f / 15));
        series = hn::MulAdd(series, a2, hn::Set(d, -1.0f / 3));
        series = hn::MulAdd(hn::Mul(series, a2), a, a);
        const V tanh = hn::IfThenElse(hn::Lt(a, hn::Set(d, 0.15f)), series, big);
        hn::StoreN(hn::Mul(hn::CopySign(tanh, x), hn::Set(d, cap)), d, values + i, left);
    }
}

const SoftmaxOps* Softmax() {
    static constexpr SoftmaxOps kOps = {&MaxOf, &ExpSum, &ScaleBy, &AllFinite, &SoftCap};
    return &kOps;
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {

HWY_EXPORT(Softmax);

const SoftmaxOps& softmax_ops() { return *HWY_DYNAMIC_DISPATCH(Softmax)(); }

}  // namespace atlas::kernels::cpu
#endif
