// Per-target include: products of pairs of bf16.
#if defined(ATLAS_KERNELS_PAIRS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATLAS_KERNELS_PAIRS_INL_H_
#undef ATLAS_KERNELS_PAIRS_INL_H_
#else
#define ATLAS_KERNELS_PAIRS_INL_H_
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {

/** sum + per 32-bit lane the products of both bf16 in it, in f32. */
template <class D, class V = hwy::HWY_NAMESPACE::Vec<D>, class VU>
HWY_INLINE V DotPairs(D d, VU w, VU a, V sum) {
    namespace hn = hwy::HWY_NAMESPACE;
#if HWY_NATIVE_DOT_BF16
    const hn::Repartition<hwy::bfloat16_t, D> db;
    V none = hn::Zero(d);
    return hn::ReorderWidenMulAccumulate(d, hn::BitCast(db, w), hn::BitCast(db, a), sum, none);
#else
    const VU upper = hn::Set(hn::Rebind<uint32_t, D>(), 0xFFFF0000u);
    sum = hn::MulAdd(hn::BitCast(d, hn::ShiftLeft<16>(w)), hn::BitCast(d, hn::ShiftLeft<16>(a)), sum);
    return hn::MulAdd(hn::BitCast(d, hn::And(w, upper)), hn::BitCast(d, hn::And(a, upper)), sum);
#endif
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
