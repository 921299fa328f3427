// Per-target include: rows of f32, vector by vector, with what is left at their ends.
#if defined(ATLAS_KERNELS_VECTORS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATLAS_KERNELS_VECTORS_INL_H_
#undef ATLAS_KERNELS_VECTORS_INL_H_
#else
#define ATLAS_KERNELS_VECTORS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>

#include <hwy/contrib/math/math-inl.h>

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

/** Calls body(offset, number of elements ≤ lanes). */
template <class Body>
HWY_INLINE void ForVectors(size_t n, Body body) {
    const size_t lanes = hn::Lanes(D());
    size_t i = 0;
    for (; i + lanes <= n; i += lanes) body(i, lanes);
    if (i < n) body(i, n - i);
}

HWY_INLINE V LoadSome(const float* from, size_t n) {
    const D d;
    return n == hn::Lanes(d) ? hn::LoadU(d, from) : hn::LoadN(d, from, n);
}

HWY_INLINE void StoreSome(V value, size_t n, float* to) {
    const D d;
    if (n == hn::Lanes(d)) {
        hn::StoreU(value, d, to);
    } else {
        hn::StoreN(value, d, to, n);
    }
}

/** y = f(a, b), vector by vector. */
template <class F>
HWY_INLINE void Zip(const float* a, const float* b, size_t n, float* y, F f) {
    ForVectors(n, [&](size_t i, size_t count)
                      HWY_ATTR { StoreSome(f(LoadSome(a + i, count), LoadSome(b + i, count)), count, y + i); });
}

/** e^{−u}. It overflows to infinity for u < −88, where σ(u) is 0 as it should be; clamped, so that ∞·0 cannot arise. */
HWY_INLINE V ExpOfMinus(V u) {
    const D d;
    return hn::Exp(d, hn::Neg(hn::Max(u, hn::Set(d, -80.0f))));
}

/** GELU in its tanh form is z·σ(u), u = z·(a + b·z²). */
inline constexpr float kGeluA = 1.5957691216f;  // 2√(2/π)
inline constexpr float kGeluB = 0.0713548163f;  // that times 0.044715

HWY_INLINE V GeluArgument(V z, V z2) {
    const D d;
    return hn::Mul(z, hn::MulAdd(hn::Set(d, kGeluB), z2, hn::Set(d, kGeluA)));
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
