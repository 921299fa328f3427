#include <algorithm>

#include "kernels/cpu/cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise/elementwise.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "kernels/cpu/elementwise/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {
void Gelu(const float* z, size_t n, float* value, float* slope) {
    const D d;
    const V one = hn::Set(d, 1.0f);
    ForVectors(n, [&](size_t i, size_t count) HWY_ATTR {
        const V x = LoadSome(z + i, count);
        const V x2 = hn::Mul(x, x);
        const V e = ExpOfMinus(GeluArgument(x, x2));
        const V s = hn::Div(one, hn::Add(one, e));
        StoreSome(hn::Mul(x, s), count, value + i);
        if (slope) {
            const V du = hn::MulAdd(hn::Set(d, 3.0f * kGeluB), x2, hn::Set(d, kGeluA));
            // 1 − σ = e^{−u}σ, without cancellation for large u.
            StoreSome(hn::MulAdd(hn::Mul(x, hn::Mul(hn::Mul(e, s), s)), du, s), count, slope + i);
        }
    });
}

void ScaledCopy(float a, const float* x, size_t n, float* y) {
    const V scale = hn::Set(D(), a);
    ForVectors(
        n, [&](size_t i, size_t count) HWY_ATTR { StoreSome(hn::Mul(scale, LoadSome(x + i, count)), count, y + i); });
}

void ScaledAdd(float a, const float* x, float b, size_t n, float* y) {
    const V scale = hn::Set(D(), a), keep = hn::Set(D(), b);
    ForVectors(n, [&](size_t i, size_t count) HWY_ATTR {
        StoreSome(hn::MulAdd(scale, LoadSome(x + i, count), hn::Mul(keep, LoadSome(y + i, count))), count, y + i);
    });
}

double SquareSum(const float* x, size_t n) {
    const D d;
    double total = 0.0;
    for (size_t begin = 0; begin < n; begin += 1024) {
        V sum = hn::Zero(d);
        ForVectors(std::min<size_t>(1024, n - begin), [&](size_t i, size_t count) HWY_ATTR {
            const V value = LoadSome(x + begin + i, count);
            sum = hn::MulAdd(value, value, sum);
        });
        total += static_cast<double>(hn::ReduceSum(d, sum));
    }
    return total;
}

bool AllFinite(const float* x, size_t n) {
    bool good = true;
    ForVectors(n, [&](size_t i, size_t count)
                      HWY_ATTR { good = good && hn::AllTrue(D(), hn::IsFinite(LoadSome(x + i, count))); });
    return good;
}

void Cosine(const float* x, size_t n, float scale, float* y) {
    const D d;
    const V factor = hn::Set(d, scale);
    ForVectors(n, [&](size_t i, size_t count)
                      HWY_ATTR { StoreSome(hn::Mul(factor, hn::Cos(d, LoadSome(x + i, count))), count, y + i); });
}

void Exponential(const float* x, size_t n, float* y) {
    const D d;
    ForVectors(n,
               [&](size_t i, size_t count) HWY_ATTR { StoreSome(hn::Exp(d, LoadSome(x + i, count)), count, y + i); });
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {
HWY_EXPORT(Gelu);
HWY_EXPORT(ScaledCopy);
HWY_EXPORT(ScaledAdd);
HWY_EXPORT(SquareSum);
HWY_EXPORT(AllFinite);
HWY_EXPORT(Cosine);
HWY_EXPORT(Exponential);

void gelu(const float* z, size_t n, float* value, float* slope) { HWY_DYNAMIC_DISPATCH(Gelu)(z, n, value, slope); }
void scaled_copy(float a, const float* x, size_t n, float* y) { HWY_DYNAMIC_DISPATCH(ScaledCopy)(a, x, n, y); }
void scaled_add(float a, const float* x, float b, size_t n, float* y) {
    HWY_DYNAMIC_DISPATCH(ScaledAdd)(a, x, b, n, y);
}
double square_sum(const float* x, size_t n) { return HWY_DYNAMIC_DISPATCH(SquareSum)(x, n); }
bool all_finite(const float* x, size_t n) { return HWY_DYNAMIC_DISPATCH(AllFinite)(x, n); }
void cosine(const float* x, size_t n, float scale, float* y) { HWY_DYNAMIC_DISPATCH(Cosine)(x, n, scale, y); }
void exponential(const float* x, size_t n, float* y) { HWY_DYNAMIC_DISPATCH(Exponential)(x, n, y); }

}  // namespace atlas::kernels::cpu
#endif
