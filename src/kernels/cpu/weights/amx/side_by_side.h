#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/weights/amx/columns.h"
#include "kernels/cpu/weights/panel.h"

// Activations for tiles: 16 columns side by side, 256 elements of k at a time. Nothing is defined beyond k.

namespace atlas::kernels::cpu {

/** kQ8. */
struct alignas(64) PartQ8 {
    int8_t codes[kPanelDepth / 4][kTile][4];  ///< four neighbours in k share a 32-bit lane
    float scales[8][kTile];
    uint32_t offsets
        [8][kTile];  ///< as the sum of two bf16, exactly: the lower half of a word is the larger part; zeros beyond k
};

/** kQ8K. */
struct alignas(64) PartQ8K {
    int8_t codes[kPanelDepth / 4][kTile][4];
    float scales[kTile];
    uint32_t sums[kPanelDepth / 16][kTile];  ///< of 16 codes each, as the sum of two bf16
};

/** The calling thread's memory, aligned for tiles, that only grows. Throws std::bad_alloc. */
void* workspace(size_t bytes);

inline size_t parts_of(int64_t k) { return static_cast<size_t>((k + kPanelDepth - 1) / kPanelDepth); }

/**
 * Lays part `part` of 16 quantised columns, which begin at `columns`, side by side.
 */
void lay_side_by_side(const ActivationLayout& layout, int64_t k, const std::byte* const* columns, size_t part,
                      PartQ8* to);
void lay_side_by_side(const ActivationLayout& layout, int64_t k, const std::byte* const* columns, size_t part,
                      PartQ8K* to);

/** out[i][lane] = in[lane][i], 16 × 16 words of 32 bits. */
ATLAS_AMX_INLINE void turn_square(__m512i (&v)[16]) {
    __m512i t[16];
#pragma GCC unroll 8
    for (size_t i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    // v[4·a + b] holds, in its 128-bit lane l, words 4·l + b of rows 4·a … 4·a + 3.
#pragma GCC unroll 4
    for (size_t b = 0; b < 4; ++b) {
        t[b] = _mm512_shuffle_i32x4(v[b], v[4 + b], 0x88);
        t[4 + b] = _mm512_shuffle_i32x4(v[b], v[4 + b], 0xDD);
        t[8 + b] = _mm512_shuffle_i32x4(v[8 + b], v[12 + b], 0x88);
        t[12 + b] = _mm512_shuffle_i32x4(v[8 + b], v[12 + b], 0xDD);
    }
#pragma GCC unroll 4
    for (size_t b = 0; b < 4; ++b) {
        v[b] = _mm512_shuffle_i32x4(t[b], t[8 + b], 0x88);
        v[8 + b] = _mm512_shuffle_i32x4(t[b], t[8 + b], 0xDD);
        v[4 + b] = _mm512_shuffle_i32x4(t[4 + b], t[12 + b], 0x88);
        v[12 + b] = _mm512_shuffle_i32x4(t[4 + b], t[12 + b], 0xDD);
    }
}

/** A number of at most 16 significant bits as two bf16, the upper one in the lower half; what is not finite is the upper one alone. */
ATLAS_AMX_INLINE __m512i two_parts(__m512 x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i upper = _mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xFFFF0000u)));
    const __mmask16 finite = _mm512_cmplt_epu32_mask(_mm512_slli_epi32(bits, 1), _mm512_set1_epi32(-(1 << 24)));
    const __m512i rest = _mm512_castps_si512(_mm512_maskz_sub_ps(finite, x, _mm512_castsi512_ps(upper)));
    return _mm512_or_si512(_mm512_srli_epi32(upper, 16),
                           _mm512_and_si512(rest, _mm512_set1_epi32(static_cast<int>(0xFFFF0000u))));
}

}  // namespace atlas::kernels::cpu
