// Per-target include: blocks of weights to codes of 8 bits, in the order of k.
#if defined(ATLAS_KERNELS_UNPACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATLAS_KERNELS_UNPACK_INL_H_
#undef ATLAS_KERNELS_UNPACK_INL_H_
#else
#define ATLAS_KERNELS_UNPACK_INL_H_
#endif

#include <hwy/highway.h>

#include <cstring>

#include "kernels/cpu/weights/panel.h"
#include "kernels/levels.h"

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using D8 = hn::FixedTag<uint8_t, 16>;
using V8 = hn::Vec<D8>;
using D4 = hn::FixedTag<float, 4>;

HWY_INLINE uint16_t WordAt(const uint8_t* from) {
    uint16_t bits;
    std::memcpy(&bits, from, sizeof bits);
    return bits;
}
HWY_INLINE uint32_t Word32At(const uint8_t* from) {
    uint32_t bits;
    std::memcpy(&bits, from, sizeof bits);
    return bits;
}
HWY_INLINE float HalfAt(const uint8_t* from) {
    const hn::FixedTag<hwy::float16_t, 4> half;
    const hn::FixedTag<uint16_t, 4> d16;
    return hn::GetLane(hn::PromoteTo(D4(), hn::BitCast(half, hn::Set(d16, WordAt(from)))));
}

/** kCount halves to f32. */
template <size_t kCount>
HWY_INLINE void WidenHalves(const uint16_t* bits, float* out) {
    const hn::FixedTag<hwy::float16_t, 4> half;
    for (size_t i = 0; i < kCount; i += 4)
        hn::StoreU(hn::PromoteTo(D4(), hn::LoadU(half, reinterpret_cast<const hwy::float16_t*>(bits + i))), D4(),
                   out + i);
}
/** factor · kCount bytes. */
template <size_t kCount, class T>
HWY_INLINE void WidenBytes(const T* bytes, float factor, float* out) {
    const hn::FixedTag<T, 4> d8;
    const hn::FixedTag<int32_t, 4> d32;
    const auto by = hn::Set(D4(), factor);
    for (size_t i = 0; i < kCount; i += 4)
        hn::StoreU(hn::Mul(by, hn::ConvertTo(D4(), hn::PromoteTo(d32, hn::LoadU(d8, bytes + i)))), D4(), out + i);
}

HWY_INLINE V8 LowNibbles(V8 v) { return hn::And(v, hn::Set(D8(), uint8_t{15})); }
HWY_INLINE V8 HighNibbles(V8 v) {
    const hn::FixedTag<uint16_t, 8> d16;
    return LowNibbles(hn::BitCast(D8(), hn::ShiftRight<4>(hn::BitCast(d16, v))));
}
/** Bits kBit and kBit + 1 of every byte. */
template <int kBit>
HWY_INLINE V8 TwoBits(V8 v) {
    const hn::FixedTag<uint16_t, 8> d16;
    return hn::And(hn::BitCast(D8(), hn::ShiftRight<kBit>(hn::BitCast(d16, v))), hn::Set(D8(), uint8_t{3}));
}
/** 2^to where the bytes have that bit of `bit`, else 0. */
HWY_INLINE V8 BitTo(V8 v, uint8_t bit, uint8_t to) {
    return hn::IfThenElseZero(hn::TestBit(v, hn::Set(D8(), bit)), hn::Set(D8(), to));
}

/** The fifth bits of 16 elements as bytes of 0 or 16; `bits` holds element j's in its bit j. */
HWY_INLINE V8 SixteenBits(uint32_t bits) {
    HWY_ALIGN static constexpr uint8_t kByte[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
    HWY_ALIGN static constexpr uint8_t kBit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const V8 spread =
        hn::TableLookupBytes(hn::BitCast(D8(), hn::Set(hn::FixedTag<uint32_t, 4>(), bits)), hn::Load(D8(), kByte));
    return hn::IfThenElseZero(hn::TestBit(spread, hn::Load(D8(), kBit)), hn::Set(D8(), uint8_t{16}));
}

/** Levels of iq4_nl and iq4_xs, plus 128; twice the numbers of FP4, plus 12. */
HWY_ALIGN inline constexpr auto kBytesIQ4 = biased_levels(kLevelsIQ4, 128);
HWY_ALIGN inline constexpr auto kBytesFP4 = biased_levels(kLevelsFP4, 12);

/** The eight scales and eight minima of six bits that q4_K and q5_K keep in twelve bytes. */
HWY_INLINE void UnpackScalesK4(const uint8_t* from, uint8_t* scales, uint8_t* minima) {
    const uint32_t a = Word32At(from), b = Word32At(from + 4), c = Word32At(from + 8);
    const uint32_t words[4] = {a & 0x3F3F3F3Fu, (c & 0x0F0F0F0Fu) | (a >> 6 & 0x03030303u) << 4, b & 0x3F3F3F3Fu,
                               (c >> 4 & 0x0F0F0F0Fu) | (b >> 6 & 0x03030303u) << 4};
    std::memcpy(scales, words, 8);
    std::memcpy(minima, words + 2, 8);
}
/** The sixteen scales of q3_K, less 32. */
HWY_INLINE void UnpackScalesQ3(const uint8_t* from, int8_t* scales) {
    const uint32_t a = Word32At(from), b = Word32At(from + 4), c = Word32At(from + 8);
    const uint32_t low = 0x0F0F0F0Fu, two = 0x03030303u;
    const uint32_t words[4] = {(a & low) | (c & two) << 4, (b & low) | (c >> 2 & two) << 4,
                               (a >> 4 & low) | (c >> 4 & two) << 4, (b >> 4 & low) | (c >> 6 & two) << 4};
    std::memcpy(scales, words, 16);
    for (size_t i = 0; i < 16; ++i) scales[i] = static_cast<int8_t>(scales[i] - 32);
}
/** The eight scales of iq4_xs, less 32. */
HWY_INLINE void UnpackScalesIQ4(const uint8_t* block, int8_t* scales) {
    const uint32_t high = WordAt(block + 2);
    for (uint32_t i = 0; i < 8; ++i) {
        const uint32_t low = block[4 + i / 2] >> (i % 2 * 4) & 15u;
        scales[i] = static_cast<int8_t>(static_cast<int>(low | (high >> (2 * i) & 3u) << 4) - 32);
    }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
