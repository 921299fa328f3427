#include "kernels/cpu/weights/amx/amx.h"
#include "kernels/cpu/weights/amx/tiles.h"

namespace atlas::kernels::cpu {
namespace {

// --- blocks of 32: sums of 32 products, scaled by both sides' scales ---

/** Tiles: 0 … 3 sums; 4, 5 columns' codes; 6, 7 weights' codes. */
TileShapes shapes_32() {
    TileShapes shapes;
    for (const int sums : {0, 1, 2, 3}) shapes.set(sums, kTile, 64);
    for (const int columns : {4, 5}) shapes.set(columns, kTile, 32);
    for (const int weights : {6, 7}) shapes.set(weights, 8, 64);
    return shapes;
}

/** 16 columns by 16 rows of a panel: what is multiplied and where it goes. */
struct Unit32 {
    ColumnTile tile;
    const std::byte* codes = nullptr;
    ptrdiff_t stride = 0;
    size_t half = 0;  // of the panel's rows
};

/** The sums of sub-block s, [16 columns][16 rows]. Neighbours use other tiles, so that they overlap. */
ATLAS_AMX_INLINE void Sums32(const Panel& panel, const Unit32& unit, size_t s, int32_t* sums) {
    const void* weights = panel.codes[8 * s][kTile * unit.half];
    const std::byte* codes = unit.codes + 32 * s;
    constexpr int kPanelStride = static_cast<int>(kPanelRows * 4);
    switch (s % 4) {
        case 0:
            _tile_zero(0);
            _tile_loadd(4, codes, unit.stride);
            _tile_loadd(6, weights, kPanelStride);
            _tile_dpbssd(0, 4, 6);
            _tile_stored(0, sums, 64);
            break;
        case 1:
            _tile_zero(1);
            _tile_loadd(5, codes, unit.stride);
            _tile_loadd(7, weights, kPanelStride);
            _tile_dpbssd(1, 5, 7);
            _tile_stored(1, sums, 64);
            break;
        case 2:
            _tile_zero(2);
            _tile_loadd(4, codes, unit.stride);
            _tile_loadd(6, weights, kPanelStride);
            _tile_dpbssd(2, 4, 6);
            _tile_stored(2, sums, 64);
            break;
        default:
            _tile_zero(3);
            _tile_loadd(5, codes, unit.stride);
            _tile_loadd(7, weights, kPanelStride);
            _tile_dpbssd(3, 5, 7);
            _tile_stored(3, sums, 64);
            break;
    }
}

using Sums = int32_t[8][kTile * kTile];

/**
 * Scales and adds up the sums of `unit`, and computes those of `next` meanwhile: sums come out of tiles late, and through memory. Either may be
 * null.
 */
template <bool kMinima>
ATLAS_AMX __attribute__((noinline)) void Advance32(const Panel& panel, size_t subs, const Unit32* unit,
                                                   const Unit32* next, const Sums& sums, Sums& next_sums, size_t scales,
                                                   size_t offsets, size_t first_row, size_t rows, bool overwrite) {
    if (unit == nullptr) {
        for (size_t s = 0; s < subs; ++s) Sums32(panel, *next, s, next_sums[s]);
        return;
    }
    __m512 total[kTile];
#pragma GCC unroll 16
    for (size_t c = 0; c < kTile; ++c) total[c] = _mm512_setzero_ps();
    for (size_t s = 0; s < subs; ++s) {
        if (next != nullptr) Sums32(panel, *next, s, next_sums[s]);
        const __m512 scale = _mm512_load_ps(panel.scales[s] + kTile * unit->half);
        const __m512 minimum = kMinima ? _mm512_load_ps(panel.minima[s] + kTile * unit->half) : _mm512_setzero_ps();
#pragma GCC unroll 16
        for (size_t c = 0; c < kTile; ++c) {
            const auto* column = reinterpret_cast<const float*>(unit->tile.in[c] + scales) + s;
            const __m512 by = _mm512_mul_ps(scale, _mm512_set1_ps(*column));
            total[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums[s] + kTile * c)), by, total[c]);
            if (kMinima) {
                const auto* offset = reinterpret_cast<const float*>(unit->tile.in[c] + offsets) + s;
                total[c] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(*offset), total[c]);
            }
        }
    }
    const auto mask = static_cast<__mmask16>((1u << std::min(kTile, rows - unit->half * kTile)) - 1);
#pragma GCC unroll 16
    for (size_t c = 0; c < kTile; ++c) {
        if (c >= unit->tile.count) break;
        float* out = unit->tile.out[c] + first_row + kTile * unit->half;
        __m512 value = total[c];
        if (!overwrite) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, out));
        _mm512_mask_storeu_ps(out, mask, value);
    }
}

/** One panel times all columns. */
template <bool kMinima>
ATLAS_AMX __attribute__((noinline)) void Block32(const WeightProduct& product, const Panel& panel, size_t elements,
                                                 const ActivationLayout& layout, size_t k, size_t first_row,
                                                 size_t rows) {
    Gathered<static_cast<size_t>(kPanelDepth)> gathered[2];
    alignas(64) Sums sums[2];
    Unit32 units[2];
    const size_t scales = layout.scales + k / 32 * 4, offsets = layout.offsets + k / 32 * 4;
    const auto count = static_cast<size_t>(product.n);
    const Unit32* before = nullptr;
    size_t turn = 0;
    for (size_t j = 0; j < count; j += kTile) {
        for (size_t half = 0; half * kTile < rows; ++half, turn ^= 1) {
            Unit32& unit = units[turn];
            if (half == 0) {
                unit.tile = ColumnTile(product, layout.bytes, static_cast<int64_t>(j));
                unit.codes = gathered[j / kTile % 2].take(unit.tile, layout.codes + k, elements, &unit.stride);
                PrefetchNext(unit.tile, layout.codes + k, elements);
                PrefetchNext(unit.tile, scales, 4);
                if (kMinima) PrefetchNext(unit.tile, offsets, 4);
            } else {
                unit = *before;
            }
            unit.half = half;
            Advance32<kMinima>(panel, elements / 32, before, &unit, sums[turn ^ 1], sums[turn], scales, offsets,
                               first_row, rows, k == 0);
            before = &unit;
        }
    }
    Advance32<kMinima>(panel, elements / 32, before, nullptr, sums[turn ^ 1], sums[turn], scales, offsets, first_row,
                       rows, k == 0);
}

ATLAS_AMX void Multiply32(const WeightProduct& product, int64_t begin, int64_t end) {
    const WeightMatrix& w = product.weights;
    const PanelKind kind = panel_kind(w.type);
    const ActivationLayout layout(weight_type_info(w.type).activations, w.cols);
    const TileScope scope(shapes_32());
    Panel panel;
    EachPanel(product, begin, end, 1, [&](const RowBlocks& rows, size_t first_row, size_t k) {
        RowBlocks blocks = rows;
        blocks.bias = static_cast<uint8_t>(kind.code_offset);
        fill_panel_32(blocks, &panel);
        (kind.minima ? Block32<true> : Block32<false>)(product, panel, rows.elements, layout, k, first_row, rows.rows);
    });
}

// --- blocks of 256: sums of whole blocks in whole numbers ---

/** Tiles: 0 … 3 sums of low and high bytes of both halves of the rows; 4 columns' codes; 5, 6, 7 weights. All of 16 × 64 bytes. */
TileShapes shapes_full() {
    TileShapes shapes;
    for (int tile = 0; tile < 8; ++tile) shapes.set(tile, kTile, 64);
    return shapes;
}

/** Sums of a block, [16 columns][16 rows] each: low and high bytes of both halves of the rows; of minima the same. */
struct Sums256 {
    alignas(64) int32_t of[4][kTile * kTile];
    alignas(64) int32_t minima[4][kTile * kTile];
};

/** low + 64 · high, as f32. */
ATLAS_AMX_INLINE __m512 Joined(const int32_t* low, const int32_t* high) {
    return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_load_si512(low), _mm512_slli_epi32(_mm512_load_si512(high), 6)));
}

/** A quarter of finishing a tile of columns: eight vectors of 16 rows. */
template <bool kTwo, bool kMinima>
ATLAS_AMX_INLINE void Finish(const WholePanel& panel, const Sums256& sums, const ColumnTile& tile, size_t scales,
                             size_t first_row, size_t rows, bool overwrite, size_t quarter) {
    const size_t half = quarter / 2;
    if (half * kTile >= rows) return;
    const __m512 scale = _mm512_load_ps(panel.scale + kTile * half);
    const __m512 minimum = _mm512_load_ps(panel.minimum + kTile * half);
    const auto mask = static_cast<__mmask16>((1u << std::min(kTile, rows - half * kTile)) - 1);
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; ++i) {
        const size_t c = quarter % 2 * 8 + i;
        if (c >= tile.count) break;
        const int32_t* low = sums.of[2 * half] + kTile * c;
        __m512 value =
            kTwo ? Joined(low, sums.of[2 * half + 1] + kTile * c) : _mm512_cvtepi32_ps(_mm512_load_si512(low));
        value = _mm512_mul_ps(value, scale);
        if (kMinima) {
            const __m512 less = Joined(sums.minima[2 * half] + kTile * c, sums.minima[2 * half + 1] + kTile * c);
            value = _mm512_fnmadd_ps(less, minimum, value);
        }
        float* out = tile.out[c] + first_row + kTile * half;
        const __m512 by = _mm512_set1_ps(*reinterpret_cast<const float*>(tile.in[c] + scales));
        const __m512 before = overwrite ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, out);
        _mm512_mask_storeu_ps(out, mask, _mm512_fmadd_ps(value, by, before));
    }
}

/** One block of 32 rows times all columns: a tile's products run while the one before it is finished. */
template <bool kTwo, bool kMinima>
ATLAS_AMX __attribute__((noinline)) void Block256(const WeightProduct& product, const WholePanel& panel,
                                                  const ActivationLayout& layout, size_t k, size_t first_row,
                                                  size_t rows) {
    constexpr int kPanelStride = static_cast<int>(kPanelRows * 4);
    Gathered<static_cast<size_t>(kPanelDepth)> gathered;
    Gathered<64> gathered_sums;
    Sums256 sums[2];
    ColumnTile tiles[2];
    const size_t scales = layout.scales + k / 256 * 4, byte_sums = layout.byte_sums + k / 8;
    const auto count = static_cast<size_t>(product.n);
    size_t turn = 0;
    for (size_t j = 0; j < count + kTile; j += kTile, turn ^= 1) {
        const bool more = j < count;
        const bool before = j != 0;
        const std::byte* codes = nullptr;
        ptrdiff_t stride = 0;
        if (more) {
            tiles[turn] = ColumnTile(product, layout.bytes, static_cast<int64_t>(j));
            codes = gathered.take(tiles[turn], layout.codes + k, 256, &stride);
            PrefetchNext(tiles[turn], layout.codes + k, 256);
            PrefetchNext(tiles[turn], scales, 4);
            if (kMinima) PrefetchNext(tiles[turn], byte_sums, 32);
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
        }
        for (size_t quarter = 0; quarter < 4; ++quarter) {
            if (more) {
                _tile_loadd(4, codes + 64 * quarter, stride);
                _tile_loadd(5, panel.low[16 * quarter][0], kPanelStride);
                _tile_dpbssd(0, 4, 5);
                if (kTwo) {
                    _tile_loadd(6, panel.high[16 * quarter][0], kPanelStride);
                    _tile_dpbssd(1, 4, 6);
                }
                _tile_loadd(7, panel.low[16 * quarter][kTile], kPanelStride);
                _tile_dpbssd(2, 4, 7);
                if (kTwo) {
                    _tile_loadd(5, panel.high[16 * quarter][kTile], kPanelStride);
                    _tile_dpbssd(3, 4, 5);
                }
            }
            if (before) {
                Finish<kTwo, kMinima>(panel, sums[turn ^ 1], tiles[turn ^ 1], scales, first_row, rows, k == 0, quarter);
            }
        }
        if (more) {
            _tile_stored(0, sums[turn].of[0], 64);
            if (kTwo) _tile_stored(1, sums[turn].of[1], 64);
            _tile_stored(2, sums[turn].of[2], 64);
            if (kTwo) _tile_stored(3, sums[turn].of[3], 64);
            if (kMinima) {
                const std::byte* parts = gathered_sums.take(tiles[turn], byte_sums, 64, &stride);
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
                _tile_loadd(4, parts, stride);
                _tile_loadd(5, panel.before[0][0], kPanelStride);
                _tile_dpbssd(0, 4, 5);
                _tile_loadd(6, panel.minima[0][0], kPanelStride);
                _tile_dpbssd(1, 4, 6);
                _tile_loadd(7, panel.before[0][kTile], kPanelStride);
                _tile_dpbssd(2, 4, 7);
                _tile_loadd(5, panel.minima[0][kTile], kPanelStride);
                _tile_dpbssd(3, 4, 5);
                _tile_stored(0, sums[turn].minima[0], 64);
                _tile_stored(1, sums[turn].minima[1], 64);
                _tile_stored(2, sums[turn].minima[2], 64);
                _tile_stored(3, sums[turn].minima[3], 64);
            }
        }
    }
}

ATLAS_AMX void Multiply256(const WeightProduct& product, int64_t begin, int64_t end) {
    const WeightType type = product.weights.type;
    const ActivationLayout layout(weight_type_info(type).activations, product.weights.cols);
    const TileScope scope(shapes_full());
    const auto block = type == WeightType::kQ2_K                                ? Block256<false, true>
                       : type == WeightType::kQ3_K                              ? Block256<false, false>
                       : type == WeightType::kQ4_K || type == WeightType::kQ5_K ? Block256<true, true>
                                                                                : Block256<true, false>;
    WholePanel panel;
    EachPanel(product, begin, end, 1, [&](const RowBlocks& rows, size_t first_row, size_t k) {
        fill_whole_panel(rows, &panel);
        block(product, panel, layout, k, first_row, rows.rows);
    });
}

}  // namespace

void multiply_blocks_amx(const WeightProduct& product, int64_t begin, int64_t end) {
    weight_type_info(product.weights.type).block_elements == 32 ? Multiply32(product, begin, end)
                                                                : Multiply256(product, begin, end);
}

}  // namespace atlas::kernels::cpu
