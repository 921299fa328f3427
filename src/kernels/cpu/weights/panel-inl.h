// Per-target include: panels made of rows.
#if defined(ATLAS_KERNELS_PANEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATLAS_KERNELS_PANEL_INL_H_
#undef ATLAS_KERNELS_PANEL_INL_H_
#else
#define ATLAS_KERNELS_PANEL_INL_H_
#endif

#include <hwy/highway.h>

#include <cstring>

#include "kernels/cpu/weights/panel.h"

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

/**
 * to[w][32] = words w of 32 rows, `stride` words apart, less `bias` in each byte; squares of 4 × 4 are turned in registers. `words` a multiple
 * of 4.
 */
HWY_INLINE void TurnWords(const uint32_t* HWY_RESTRICT from, size_t stride, size_t words, uint32_t* HWY_RESTRICT to,
                          uint8_t bias) {
    const hn::FixedTag<uint8_t, 16> d8;
    const auto less = hn::Set(d8, bias);
    const auto load = [&](const uint32_t* at) HWY_ATTR {
        return hn::BitCast(hn::FixedTag<uint32_t, 4>(),
                           hn::Sub(hn::LoadU(d8, reinterpret_cast<const uint8_t*>(at)), less));
    };
    const hn::FixedTag<uint32_t, 4> d4;
    const hn::FixedTag<uint64_t, 2> d2;
    for (size_t w = 0; w < words; w += 4) {
        for (size_t r = 0; r < kPanelRows; r += 4) {
            const uint32_t* at = from + r * stride + w;
            const auto r0 = load(at), r1 = load(at + stride), r2 = load(at + 2 * stride), r3 = load(at + 3 * stride);
            const auto l01 = hn::BitCast(d2, hn::InterleaveLower(d4, r0, r1));
            const auto u01 = hn::BitCast(d2, hn::InterleaveUpper(d4, r0, r1));
            const auto l23 = hn::BitCast(d2, hn::InterleaveLower(d4, r2, r3));
            const auto u23 = hn::BitCast(d2, hn::InterleaveUpper(d4, r2, r3));
            uint32_t* out = to + w * kPanelRows + r;
            hn::StoreU(hn::BitCast(d4, hn::InterleaveLower(d2, l01, l23)), d4, out);
            hn::StoreU(hn::BitCast(d4, hn::InterleaveUpper(d2, l01, l23)), d4, out + kPanelRows);
            hn::StoreU(hn::BitCast(d4, hn::InterleaveLower(d2, u01, u23)), d4, out + 2 * kPanelRows);
            hn::StoreU(hn::BitCast(d4, hn::InterleaveUpper(d2, u01, u23)), d4, out + 3 * kPanelRows);
        }
    }
}

/**
 * Unpack::Row(blocks, elements, codes, scales, minima) decodes one row's part: codes u8 [256], scales and minima f32 [16]; minima only where
 * Unpack::kMinima.
 */
template <class Unpack>
HWY_NOINLINE void FillPanel(const RowBlocks& rows, Panel* panel) {
    // A row longer than 256 bytes by a vector: rows do not share cache sets.
    constexpr size_t kStride = static_cast<size_t>(kPanelDepth) + 64;
    alignas(64) uint8_t codes[kPanelRows * kStride];
    constexpr size_t kSubs = static_cast<size_t>(kPanelDepth) / Unpack::kSub;
    for (size_t r = 0; r < kPanelRows; ++r) {
        alignas(64) float scales[16];
        alignas(64) float minima[16];
        if (r < rows.rows) {
            Unpack::Row(rows.data + r * rows.stride, rows.elements, codes + r * kStride, scales, minima);
        } else {
            std::memset(codes + r * kStride, 0, static_cast<size_t>(kPanelDepth));
            std::memset(scales, 0, sizeof scales);
            std::memset(minima, 0, sizeof minima);
        }
        for (size_t s = 0; s < kSubs; ++s) {
            panel->scales[s][r] = scales[s];
            if (Unpack::kMinima) panel->minima[s][r] = minima[s];
        }
    }
    TurnWords(reinterpret_cast<const uint32_t*>(codes), kStride / 4, rows.elements / 4,
              reinterpret_cast<uint32_t*>(panel->codes), rows.bias);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
