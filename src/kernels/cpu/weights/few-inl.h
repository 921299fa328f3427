// Per-target include: what products with few columns share.
#if defined(ATLAS_KERNELS_FEW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATLAS_KERNELS_FEW_INL_H_
#undef ATLAS_KERNELS_FEW_INL_H_
#else
#define ATLAS_KERNELS_FEW_INL_H_
#endif

#include <hwy/highway.h>

#include "kernels/cpu/weights/few.h"

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;
using DI = hn::Rebind<int32_t, D>;
using DU = hn::Rebind<uint32_t, D>;
using VI = hn::Vec<DI>;
using VU = hn::Vec<DU>;
using DB = hn::Repartition<uint8_t, D>;
using DS = hn::Repartition<int8_t, D>;
using D16 = hn::Repartition<int16_t, D>;
using VB = hn::Vec<DB>;
using VS = hn::Vec<DS>;
using V16 = hn::Vec<D16>;

#undef ATLAS_QUAD_PRODUCTS
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
#define ATLAS_QUAD_PRODUCTS 0
#else
#define ATLAS_QUAD_PRODUCTS 1
#endif

/** Columns that share a row's decoding. Portable code is slow anyway, and slow to compile. */
constexpr size_t kMostColumns = HWY_TARGET == HWY_EMU128 ? 1 : 4;

/** sum + per 32-bit lane the four products of bytes. kWide: codes up to 255, else up to 63. */
template <bool kWide>
HWY_INLINE VI AddQuads(VI sum, VB codes, VS activations) {
#if ATLAS_QUAD_PRODUCTS
    return hn::SumOfMulQuadAccumulate(DI(), codes, activations, sum);
#else
    if constexpr (kWide) {
        return hn::SumOfMulQuadAccumulate(DI(), codes, activations, sum);
    } else {
        const V16 pairs = hn::SatWidenMulPairwiseAdd(D16(), codes, activations);
        return hn::Add(sum, hn::WidenMulPairwiseAdd(DI(), pairs, hn::Set(D16(), 1)));
    }
#endif
}

/** As many halves as there are lanes, to f32. */
HWY_INLINE V WidenVector(const uint16_t* halves) {
    const hn::Rebind<hwy::float16_t, D> half;
    return hn::PromoteTo(D(), hn::LoadU(half, reinterpret_cast<const hwy::float16_t*>(halves)));
}

/** Into the second-level cache: fetched into the first one, as far ahead as it takes, some 5 to 10 % of the bandwidth are lost. */
HWY_INLINE void PrefetchRow(const uint8_t* from, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
