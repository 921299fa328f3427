// Per-target include: what keeps gcc's sums in registers.
#if defined(ATLAS_KERNELS_SETTLE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATLAS_KERNELS_SETTLE_INL_H_
#undef ATLAS_KERNELS_SETTLE_INL_H_
#else
#define ATLAS_KERNELS_SETTLE_INL_H_
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
#undef ATLAS_VECTOR_REGISTER
#if HWY_TARGET == HWY_AVX2
#define ATLAS_VECTOR_REGISTER "+x"
#else
#define ATLAS_VECTOR_REGISTER "+v"  // one of 32
#endif
/**
 * Here the compiler must have v in a register. Left alone, gcc takes the products of a whole unrolled loop first and adds them afterwards, all
 * of them by way of the stack (whole numbers, whose sums it may take in any order).
 */
template <class Vector>
HWY_INLINE void Settle(Vector& v) {
    asm volatile("" : ATLAS_VECTOR_REGISTER(v.raw));
}
/** Keeps v in memory until it is used. */
template <class Vector>
HWY_INLINE void PutAside(Vector& v) {
    asm volatile("" : "+m"(v.raw));
}
#else
template <class Vector>
HWY_INLINE void Settle(Vector&) {}
template <class Vector>
HWY_INLINE void PutAside(Vector&) {}
#endif

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
