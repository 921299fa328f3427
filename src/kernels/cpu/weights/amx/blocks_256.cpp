#include "kernels/cpu/weights/amx/parts.h"

// Sums of whole blocks in whole numbers: the high and the low bytes of what scales and codes make in two passes, then both sides' scales in f32.
// A panel's 32 rows share each tile of columns: 18 to 21 cycles per product of tiles, where the processor's limit is 16.

namespace atlas::kernels::cpu {
namespace {

/** All of 16 × 64 bytes. Tiles: 0 … 3 sums of low and high bytes of both halves of the rows; 4, 5 weights; 6 columns; 7 sums of minima. */
TileShapes shapes_full() {
    TileShapes shapes;
    for (int tile = 0; tile < 8; ++tile) shapes.set(tile, kTile, 64);
    return shapes;
}

struct alignas(64) Sums {
    int32_t low[2][kTile][kTile];
    int32_t high[2][kTile][kTile];
    float minima[2][kTile][kTile];
};

/** A quarter of the panel's rows: their sums scaled and added to those before. */
template <bool kTwo, bool kMinima>
ATLAS_AMX_INLINE void Finish(const WholeTiles& panel, const Sums& sums, const PartQ8K& part, size_t quarter, bool first,
                             GroupSums* out) {
    const size_t half = quarter / 2;
    const __m512 by_column = _mm512_load_ps(part.scales);
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; ++i) {
        const size_t r = quarter % 2 * 8 + i;
        __m512i whole = _mm512_load_si512(sums.low[half][r]);
        if (kTwo) whole = _mm512_add_epi32(whole, _mm512_slli_epi32(_mm512_load_si512(sums.high[half][r]), 6));
        __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(whole), _mm512_set1_ps(panel.scale[half][r]));
        if (kMinima) {
            value =
                _mm512_fnmadd_ps(_mm512_load_ps(sums.minima[half][r]), _mm512_set1_ps(panel.minimum[half][r]), value);
        }
        float* to = (*out)[half][r];
        _mm512_store_ps(
            to, first ? _mm512_mul_ps(value, by_column) : _mm512_fmadd_ps(value, by_column, _mm512_load_ps(to)));
    }
}

/** The products of 16 of the panel's rows with a quarter of k. */
template <bool kTwo>
ATLAS_AMX_INLINE void MultiplyUpper(const WholeTiles& panel, size_t quarter) {
    _tile_loadd(4, panel.low[0][quarter], 64);
    _tile_dpbssd(0, 4, 6);
    if (kTwo) {
        _tile_loadd(5, panel.high[0][quarter], 64);
        _tile_dpbssd(1, 5, 6);
    }
}
template <bool kTwo>
ATLAS_AMX_INLINE void MultiplyLower(const WholeTiles& panel, size_t quarter) {
    _tile_loadd(4, panel.low[1][quarter], 64);
    _tile_dpbssd(2, 4, 6);
    if (kTwo) {
        _tile_loadd(5, panel.high[1][quarter], 64);
        _tile_dpbssd(3, 5, 6);
    }
}

/** The sums of `next`, and meanwhile what is to be done with those of `part`, the group before it. */
template <bool kTwo, bool kMinima, bool kPart, bool kNext>
ATLAS_AMX __attribute__((noinline)) void Advance(const WholeTiles& panel, bool two_halves, const PartQ8K* part,
                                                 const Sums& sums, const PartQ8K* next, Sums* next_sums, bool first,
                                                 GroupSums* out) {
    if (kNext) {
        _tile_zero(0);
        if (kTwo) _tile_zero(1);
        _tile_zero(2);
        if (kTwo) _tile_zero(3);
    }
    for (size_t quarter = 0; quarter < 4; ++quarter) {
        if (kNext) {
            _tile_loadd(6, next->codes[16 * quarter], 64);
            MultiplyUpper<kTwo>(panel, quarter);
            if (two_halves) MultiplyLower<kTwo>(panel, quarter);
        }
        if (kPart && (quarter < 2 || two_halves)) Finish<kTwo, kMinima>(panel, sums, *part, quarter, first, out);
    }
    if (!kNext) return;
    if (kMinima) {
        _tile_loadd(6, next->sums, 64);
        _tile_zero(7);
        _tile_loadd(4, panel.minima[0], 64);
        _tile_dpbf16ps(7, 4, 6);
    }
    _tile_stored(0, next_sums->low[0], 64);
    if (kTwo) _tile_stored(1, next_sums->high[0], 64);
    if (kMinima) _tile_stored(7, next_sums->minima[0], 64);
    if (!two_halves) return;
    if (kMinima) {
        _tile_zero(7);
        _tile_loadd(5, panel.minima[1], 64);
        _tile_dpbf16ps(7, 5, 6);
    }
    _tile_stored(2, next_sums->low[1], 64);
    if (kTwo) _tile_stored(3, next_sums->high[1], 64);
    if (kMinima) _tile_stored(7, next_sums->minima[1], 64);
}

template <bool kTwo, bool kMinima>
void MultiplyGroups(const WholeTiles& panel, const PartOfGroups<PartQ8K>& of, GroupSums* out) {
    Sums sums[2];
    const bool two_halves = of.rows > kTile;
    for (size_t g = 0; g <= of.groups; ++g) {
        const PartQ8K* next = of.parts + g * of.stride;
        const PartQ8K* part = next - of.stride;
        Sums* next_sums = &sums[g % 2];
        const Sums& before = sums[(g + 1) % 2];
        if (g == 0) {
            Advance<kTwo, kMinima, false, true>(panel, two_halves, nullptr, before, next, next_sums, of.first, nullptr);
        } else if (g < of.groups) {
            Advance<kTwo, kMinima, true, true>(panel, two_halves, part, before, next, next_sums, of.first, out + g - 1);
        } else {
            Advance<kTwo, kMinima, true, false>(panel, two_halves, part, before, nullptr, next_sums, of.first,
                                                out + g - 1);
        }
    }
}

}  // namespace

ATLAS_AMX void multiply_256_amx(const WeightProduct& product, int64_t begin, int64_t end) {
    const TileScope scope(shapes_full());
    const WeightType type = product.weights.type;
    const auto multiply = type == WeightType::kQ2_K                                ? MultiplyGroups<false, true>
                          : type == WeightType::kQ3_K                              ? MultiplyGroups<false, false>
                          : type == WeightType::kQ4_K || type == WeightType::kQ5_K ? MultiplyGroups<true, true>
                                                                                   : MultiplyGroups<true, false>;
    multiply_parts<PartQ8K, WholeTiles>(product, begin, end, unpack_256, multiply);
}

}  // namespace atlas::kernels::cpu
