#include "kernels/cpu/weights/amx/parts.h"

// Sums of 32 products, scaled by both sides' scales in f32. While tiles are in use, one 512-bit multiplication starts per cycle and not two
// (measured, Sapphire Rapids); additions still start on the other port. So sums leave the tiles as f32 that hold kMagic + sum: a subtraction
// makes them numbers where a conversion would take a multiplier's turn, 52 to 44 cycles for 16 × 16 × 32. A tile stored right behind its
// product holds up those that follow, 27 cycles against 17, so that stores come one product later.

namespace atlas::kernels::cpu {
namespace {

/** 1.5 · 2^23: its last bit is worth 1, and sums are below 2^22. */
constexpr float kMagic = 12582912.0f;
alignas(64) constexpr float kMagics[16] = {kMagic, kMagic, kMagic, kMagic, kMagic, kMagic, kMagic, kMagic,
                                           kMagic, kMagic, kMagic, kMagic, kMagic, kMagic, kMagic, kMagic};

/** Tiles: 0 … 3 sums; 4, 5 weights; 6, 7 columns. */
TileShapes shapes_32() {
    TileShapes shapes;
    for (const int sums : {0, 1, 2, 3}) shapes.set(sums, kTile, 64);
    for (const int weights : {4, 5}) shapes.set(weights, kTile, 32);
    for (const int columns : {6, 7}) shapes.set(columns, 8, 64);
    return shapes;
}

/** 16 rows by 16 columns by up to eight blocks; of sums, [8] are the minima's, already f32. */
struct Unit {
    const PartQ8* part = nullptr;
    size_t half = 0;
    GroupSums* out = nullptr;
};
/** One plane more than is used: what is read and what is written a block before are then 2 KiB apart, modulo the 4 KiB that loads compare. */
using UnitSums = float[10][kTile][kTile];

/** Multiplies block s; sums are in tile s % 4. */
template <int kPlace>
ATLAS_AMX_INLINE void Multiply(const ScaledTiles& panel, const Unit& unit, size_t s) {
    const int8_t* weights = panel.codes[unit.half][s / 2][0] + s % 2 * 32;
    const void* columns = unit.part->codes[8 * s];
    if constexpr (kPlace == 0) {
        _tile_loadd(0, kMagics, 0);
        _tile_loadd(4, weights, 64);
        _tile_loadd(6, columns, 64);
        _tile_dpbssd(0, 4, 6);
    } else if constexpr (kPlace == 1) {
        _tile_loadd(1, kMagics, 0);
        _tile_loadd(5, weights, 64);
        _tile_loadd(7, columns, 64);
        _tile_dpbssd(1, 5, 7);
    } else if constexpr (kPlace == 2) {
        _tile_loadd(2, kMagics, 0);
        _tile_loadd(4, weights, 64);
        _tile_loadd(6, columns, 64);
        _tile_dpbssd(2, 4, 6);
    } else {
        _tile_loadd(3, kMagics, 0);
        _tile_loadd(5, weights, 64);
        _tile_loadd(7, columns, 64);
        _tile_dpbssd(3, 5, 7);
    }
}
ATLAS_AMX_INLINE void MultiplyMinima(const ScaledTiles& panel, const Unit& unit) {
    _tile_zero(3);
    _tile_loadd(4, panel.minima[unit.half][0], 32);
    _tile_loadd(6, unit.part->offsets, 64);
    _tile_dpbf16ps(3, 4, 6);
    _tile_loadd(5, panel.minima[unit.half][1], 32);
    _tile_dpbf16ps(3, 5, 6);
}
template <int kPlace>
ATLAS_AMX_INLINE void Store(float (*sums)[kTile]) {
    if constexpr (kPlace == 0) _tile_stored(0, sums, 64);
    if constexpr (kPlace == 1) _tile_stored(1, sums, 64);
    if constexpr (kPlace == 2) _tile_stored(2, sums, 64);
    if constexpr (kPlace == 3) _tile_stored(3, sums, 64);
}

/** What Advance works on. */
struct Turn {
    const ScaledTiles& panel;
    size_t blocks;
    const Unit* unit;  ///< whose sums are scaled
    const Unit* next;  ///< whose sums are made
    const UnitSums& sums;
    UnitSums& next_sums;
};

/** Block s of both units. */
template <bool kMinima, bool kUnit, bool kNext, int kPlace>
ATLAS_AMX_INLINE void Step(const Turn& turn, size_t s, __m512 (&total)[kTile]) {
    if (s >= turn.blocks) return;
    if (kNext) {
        Multiply<kPlace>(turn.panel, *turn.next, s);
        if (s > 0) {
            Store<(kPlace + 3) % 4>(turn.next_sums[s - 1]);
        } else if (kMinima) {
            Store<3>(turn.next_sums[8]);
        }
    }
    if (!kUnit) return;
    const __m512 by_column = _mm512_load_ps(turn.unit->part->scales[s]);
    const float (*by_row)[8] = turn.panel.scales[turn.unit->half];
#pragma GCC unroll 16
    for (size_t r = 0; r < kTile; ++r) {
        const __m512 sum = _mm512_sub_ps(_mm512_load_ps(turn.sums[s][r]), _mm512_set1_ps(kMagic));
        total[r] = _mm512_fmadd_ps(sum, _mm512_mul_ps(by_column, _mm512_set1_ps(by_row[r][s])), total[r]);
    }
}

/** Scales and adds up the sums of `unit`, and makes those of `next` meanwhile. */
template <bool kMinima, bool kUnit, bool kNext>
ATLAS_AMX __attribute__((noinline)) void Advance(const Turn& turn, bool first) {
    __m512 total[kTile];
    if (kUnit) {
#pragma GCC unroll 16
        for (size_t r = 0; r < kTile; ++r)
            total[r] = first ? _mm512_setzero_ps() : _mm512_load_ps((*turn.unit->out)[turn.unit->half][r]);
    }
    if (kUnit && kMinima) {
#pragma GCC unroll 16
        for (size_t r = 0; r < kTile; ++r) total[r] = _mm512_add_ps(total[r], _mm512_load_ps(turn.sums[8][r]));
    }
    if (kNext && kMinima) MultiplyMinima(turn.panel, *turn.next);
    for (size_t s = 0; s < turn.blocks; s += 4) {
        Step<kMinima, kUnit, kNext, 0>(turn, s, total);
        Step<kMinima, kUnit, kNext, 1>(turn, s + 1, total);
        Step<kMinima, kUnit, kNext, 2>(turn, s + 2, total);
        Step<kMinima, kUnit, kNext, 3>(turn, s + 3, total);
    }
    if (kNext) {
        const size_t last = turn.blocks - 1;
        float (*to)[kTile] = turn.next_sums[last];
        switch (last % 4) {
            case 0:
                Store<0>(to);
                break;
            case 1:
                Store<1>(to);
                break;
            case 2:
                Store<2>(to);
                break;
            default:
                Store<3>(to);
        }
    }
    if (kUnit) {
#pragma GCC unroll 16
        for (size_t r = 0; r < kTile; ++r) _mm512_store_ps((*turn.unit->out)[turn.unit->half][r], total[r]);
    }
}

template <bool kMinima>
void MultiplyGroups(const ScaledTiles& panel, const PartOfGroups<PartQ8>& of, GroupSums* out) {
    alignas(64) UnitSums sums[2];
    Unit units[2];
    const size_t halves = of.rows > kTile ? 2 : 1;
    const size_t count = of.groups * halves;
    for (size_t i = 0; i <= count; ++i) {
        const size_t now = i % 2;
        if (i < count) units[now] = {of.parts + i / halves * of.stride, i % halves, out + i / halves};
        const Turn turn{panel, of.elements / 32, &units[now ^ 1], &units[now], sums[now ^ 1], sums[now]};
        if (i == 0) {
            Advance<kMinima, false, true>(turn, of.first);
        } else if (i < count) {
            Advance<kMinima, true, true>(turn, of.first);
        } else {
            Advance<kMinima, true, false>(turn, of.first);
        }
    }
}

}  // namespace

ATLAS_AMX void multiply_32_amx(const WeightProduct& product, int64_t begin, int64_t end) {
    const TileScope scope(shapes_32());
    multiply_parts<PartQ8, ScaledTiles>(
        product, begin, end, unpack_32,
        panel_kind(product.weights.type).minima ? MultiplyGroups<true> : MultiplyGroups<false>);
}

}  // namespace atlas::kernels::cpu
