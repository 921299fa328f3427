// Per-target include: blocks of kernels/e4m3.h to bf16.
#if defined(ATLAS_KERNELS_E4M3_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATLAS_KERNELS_E4M3_INL_H_
#undef ATLAS_KERNELS_E4M3_INL_H_
#else
#define ATLAS_KERNELS_E4M3_INL_H_
#endif

#include <hwy/highway.h>

#include "kernels/e4m3.h"

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {

using DE4M3 = hwy::HWY_NAMESPACE::CappedTag<int16_t, 32>;
using VE4M3 = hwy::HWY_NAMESPACE::Vec<DE4M3>;

/** Codes in the lower (kLower) or upper bytes of words as bf16, 2^−120 times the numbers: shifted with their sign, which is then cut off above the exponent. */
template <bool kLower>
HWY_INLINE VE4M3 SmallWords(VE4M3 codes) {
    namespace hn = hwy::HWY_NAMESPACE;
    const DE4M3 d;
    const auto mask = hn::Set(d, static_cast<int16_t>(-0x7810));  // 0x87F0
    if constexpr (kLower) codes = hn::ShiftLeft<8>(codes);
    return hn::And(hn::ShiftRight<4>(codes), mask);
}

/** Whole blocks of n elements as bf16, 2^−80 times the weights: for activations of 2^80 times theirs. */
HWY_INLINE void UnpackE4M3(const uint8_t* from, size_t n, uint16_t* HWY_RESTRICT out) {
    namespace hn = hwy::HWY_NAMESPACE;
    const DE4M3 d;
    const size_t lanes = hn::Lanes(d);
    const auto size = hn::Set(d, int16_t{0x7FFF});
    for (size_t b = 0; b < n / kE4M3Block; ++b, from += kE4M3BlockBytes, out += kE4M3Block) {
        const auto exponent = hn::Set(d, static_cast<int16_t>((from[0] - kE4M3LeastScale) << 7));
        const auto scaled = [&](VE4M3 word) HWY_ATTR {
            return hn::IfThenElseZero(hn::Ne(hn::And(word, size), hn::Zero(d)), hn::Add(word, exponent));
        };
        auto* to = reinterpret_cast<int16_t*>(out);
        for (size_t i = 0; i < kE4M3Block / 2; i += lanes) {
            const VE4M3 codes = hn::LoadU(d, reinterpret_cast<const int16_t*>(from + 1 + 2 * i));
            hn::StoreU(scaled(SmallWords<true>(codes)), d, to + i);
            hn::StoreU(scaled(SmallWords<false>(codes)), d, to + kE4M3Block / 2 + i);
        }
    }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
