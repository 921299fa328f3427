#include "kernels/cpu/attention/split_products.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/amx/exp2.h"
#include "kernels/cpu/amx/tiles.h"

namespace atlas::kernels::cpu {
namespace {

static_assert(kSplitRows == 2 * kTile);

/** A number and what is left of it, both as f32 of which bf16 keeps the upper half; of an infinity nothing is left, instead of NaN. */
struct Parts {
    __m512i high;  // whole bf16
    __m512 rest;   // not yet rounded
};

/** To the nearest, ties away from zero. What is in the lower halves of the result is of no account. */
ATLAS_AMX_INLINE __m512i RoundUpperHalves(__m512 x) {
    return _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
}
ATLAS_AMX_INLINE __m512i UpperHalves(__m512i x) { return _mm512_and_si512(x, _mm512_set1_epi32(-0x10000)); }

ATLAS_AMX_INLINE Parts SplitFinite(__m512 x) {
    const __m512i high = UpperHalves(RoundUpperHalves(x));
    return {high, _mm512_sub_ps(x, _mm512_castsi512_ps(high))};
}

ATLAS_AMX_INLINE Parts Split(__m512 x) {
    constexpr int kInfinities = 0x18;
    Parts parts = SplitFinite(x);
    const __mmask16 infinite = _mm512_fpclass_ps_mask(_mm512_castsi512_ps(parts.high), kInfinities);
    parts.rest = _mm512_maskz_mov_ps(_knot_mask16(infinite), parts.rest);
    return parts;
}

/** 32 bf16 in a row. */
ATLAS_AMX_INLINE void StoreInRow(Parts first, Parts second, void* high, void* rest) {
    alignas(64) static constexpr uint16_t kOdd[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                      33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    _mm512_storeu_si512(high, _mm512_permutex2var_epi16(first.high, _mm512_load_si512(kOdd), second.high));
    _mm512_storeu_si512(rest, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second.rest, first.rest)));
}

/** Words of two bf16: the first in the lower half. */
ATLAS_AMX_INLINE __m512i Pair(__m512i first, __m512i second) {
    return _mm512_or_si512(_mm512_srli_epi32(first, 16), UpperHalves(second));
}

/** 2^x for x ≤ 2⁸, 0 for x ≤ −126 and −∞, NaN for NaN. */
ATLAS_AMX_INLINE __m512 Exp2Weight(__m512 x) {
    return Exp2<5>(x, _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_NLE_UQ));
}

/** Columns become rows, of 16 × 16 words. */
ATLAS_AMX_INLINE void Transpose16(__m512i* r) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    // r[4g + j]: element 4b + j of rows 4g … 4g + 3 in block b.
    for (int j = 0; j < 4; ++j) {
        const __m512i a = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88), b = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
        const __m512i c = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
        const __m512i d = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
        t[j] = _mm512_shuffle_i32x4(a, c, 0x88);
        t[8 + j] = _mm512_shuffle_i32x4(a, c, 0xdd);
        t[4 + j] = _mm512_shuffle_i32x4(b, d, 0x88);
        t[12 + j] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
    for (int i = 0; i < 16; ++i) r[i] = t[i];
}

/** One pass of kRowTiles × 2 tiles: rows of `left` times pairs of `right`, at the same depth. */
template <int kRowTiles>
ATLAS_AMX_INLINE void LoadLeft(const uint16_t* left, int64_t stride) {
    _tile_loadd(4, left, 2 * stride);
    if (kRowTiles > 1) _tile_loadd(5, left + static_cast<int64_t>(kTile) * stride, 2 * stride);
}

ATLAS_AMX_INLINE void LoadRight(const uint32_t* right, int64_t stride) {
    _tile_loadd(6, right, 4 * stride);
    _tile_loadd(7, right + kTile, 4 * stride);
}

template <int kRowTiles>
ATLAS_AMX_INLINE void Multiply() {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (kRowTiles > 1) {
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

template <int kRowTiles>
ATLAS_AMX_INLINE void Product(SplitRows left, SplitPairs right, int64_t columns, int64_t depth, bool add, float* out,
                              int64_t out_stride) {
    for (int64_t column = 0; column < columns; column += kSplitRows) {
        float* const at = out + column;
        const int64_t below = static_cast<int64_t>(kTile) * out_stride;
        if (add) {
            _tile_loadd(0, at, 4 * out_stride);
            _tile_loadd(1, at + kTile, 4 * out_stride);
            if (kRowTiles > 1) {
                _tile_loadd(2, at + below, 4 * out_stride);
                _tile_loadd(3, at + below + kTile, 4 * out_stride);
            }
        } else {
            _tile_zero(0);
            _tile_zero(1);
            if (kRowTiles > 1) {
                _tile_zero(2);
                _tile_zero(3);
            }
        }
        for (int64_t k = 0; k < depth; k += kSplitStep) {
            const SplitPairs pairs = right.at(k / 2, column);
            LoadLeft<kRowTiles>(left.high + k, left.stride);
            LoadRight(pairs.high, pairs.stride);
            Multiply<kRowTiles>();
            if (!pairs.whole) {
                LoadRight(pairs.rest, pairs.stride);
                Multiply<kRowTiles>();
                LoadRight(pairs.high, pairs.stride);
            }
            LoadLeft<kRowTiles>(left.rest + k, left.stride);
            Multiply<kRowTiles>();
        }
        _tile_stored(0, at, 4 * out_stride);
        _tile_stored(1, at + kTile, 4 * out_stride);
        if (kRowTiles > 1) {
            _tile_stored(2, at + below, 4 * out_stride);
            _tile_stored(3, at + below + kTile, 4 * out_stride);
        }
    }
}

}  // namespace

ATLAS_AMX void shape_split_tiles(std::byte* before) {
    TileShapes shapes;
    for (int tile = 0; tile < 8; ++tile) shapes.set(tile, kTile, 64);
    _tile_storeconfig(before);
    _tile_loadconfig(&shapes);
}

ATLAS_AMX void unshape_split_tiles(const std::byte* before) { _tile_loadconfig(before); }

ATLAS_AMX void split_row(const float* from, int64_t count, float factor, SplitRows to) {
    const __m512 scale = _mm512_set1_ps(factor);
    for (int64_t i = 0; i < to.stride; i += kSplitStep) {
        Parts parts[2];
        for (int64_t half = 0; half < 2; ++half) {
            const int64_t at = i + 16 * half;
            const int64_t left = from == nullptr ? 0 : std::clamp<int64_t>(count - at, 0, 16);
            const auto mask = static_cast<__mmask16>((1u << left) - 1);
            const __m512 x = left == 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, from + at);
            parts[half] = Split(_mm512_mul_ps(scale, x));
        }
        StoreInRow(parts[0], parts[1], to.high + i, to.rest + i);
    }
}

ATLAS_AMX void split_columns(const float* from, int64_t from_stride, int64_t count, SplitPairs to) {
    for (int64_t i = 0; i < count; i += kSplitStep) {
        __m512i high[16], rest[16];
        for (int64_t r = 0; r < 16; ++r) {
            const float* row = from + r * from_stride + i;
            StoreInRow(Split(_mm512_load_ps(row)), Split(_mm512_load_ps(row + 16)), &high[r], &rest[r]);
        }
        Transpose16(high);
        for (int64_t pair = 0; pair < 16; ++pair) _mm512_store_si512(to.high + (i / 2 + pair) * to.stride, high[pair]);
        if (to.whole) continue;
        Transpose16(rest);
        for (int64_t pair = 0; pair < 16; ++pair) _mm512_store_si512(to.rest + (i / 2 + pair) * to.stride, rest[pair]);
    }
}

ATLAS_AMX void split_pair(const float* first, const float* second, int64_t count, SplitPairs to) {
    for (int64_t i = 0; i < count; i += 16) {
        const Parts a = Split(_mm512_load_ps(first + i)), b = Split(_mm512_load_ps(second + i));
        _mm512_store_si512(to.high + i, Pair(a.high, b.high));
        if (!to.whole) _mm512_store_si512(to.rest + i, Pair(RoundUpperHalves(a.rest), RoundUpperHalves(b.rest)));
    }
}

ATLAS_AMX float split_weights(const float* scores, float slack, float* max, float* sum, SplitRows to) {
    __m512 x[4];
    for (int i = 0; i < 4; ++i) x[i] = _mm512_load_ps(scores + 16 * i);
    const __m512 top = _mm512_max_ps(_mm512_max_ps(x[0], x[1]), _mm512_max_ps(x[2], x[3]));
    __m512 total = _mm512_load_ps(sum);
    float correction = 1.0f;
    if (_mm512_cmp_ps_mask(top, _mm512_set1_ps(*max + slack), _CMP_GT_OQ) != 0) {
        const float raised = _mm512_reduce_max_ps(top);
        correction = std::exp2(*max - raised);
        *max = raised;
        total = _mm512_mul_ps(total, _mm512_set1_ps(correction));
    }
    // While nothing was visible, −∞ − (−∞) would be NaN.
    const __m512 m = _mm512_set1_ps(*max == -HUGE_VALF ? 0.0f : *max);
    for (int i = 0; i < 4; ++i) {
        x[i] = Exp2Weight(_mm512_sub_ps(x[i], m));
        total = _mm512_add_ps(total, x[i]);
    }
    StoreInRow(SplitFinite(x[0]), SplitFinite(x[1]), to.high, to.rest);
    StoreInRow(SplitFinite(x[2]), SplitFinite(x[3]), to.high + 32, to.rest + 32);
    _mm512_store_ps(sum, total);
    return correction;
}

ATLAS_AMX void split_product(SplitRows left, SplitPairs right, int64_t rows, int64_t columns, int64_t depth, bool add,
                             float* out, int64_t out_stride) {
    if (rows > static_cast<int64_t>(kTile)) {
        Product<2>(left, right, columns, depth, add, out, out_stride);
    } else {
        Product<1>(left, right, columns, depth, add, out, out_stride);
    }
}

}  // namespace atlas::kernels::cpu
