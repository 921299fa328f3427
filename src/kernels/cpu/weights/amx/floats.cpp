#include "kernels/cpu/weights/amx/amx.h"
#include "kernels/cpu/weights/amx/columns.h"

// bf16 as it is, E4M3 as bf16. f16 as the sum of two bf16, its upper eight bits and the rest, which says it exactly; of the product of two such sums the
// product of the rests is left out: below 2⁻¹⁶ of the whole.

namespace atlas::kernels::cpu {
namespace {

constexpr int kPanelStride = static_cast<int>(kPanelRows * 4);
/** Elements of k per tile of 16 × 64 bytes. */
constexpr size_t kStep = 32;

TileShapes shapes_full() {
    TileShapes shapes;
    for (int tile = 0; tile < 8; ++tile) shapes.set(tile, kTile, 64);
    return shapes;
}

struct Sums {
    alignas(64) float of[4][kTile * kTile];
};

/** Writes or adds 16 columns by 32 rows: `sums` of both halves of the rows, and with kRest those of `rest` as well. */
template <bool kRest>
ATLAS_AMX_INLINE void Finish(const float* low_half, const float* high_half, const float* low_rest,
                             const float* high_rest, const ColumnTile& tile, size_t first_row, size_t rows,
                             bool overwrite) {
    for (size_t half = 0; half * kTile < rows; ++half) {
        const auto mask = static_cast<__mmask16>((1u << std::min(kTile, rows - half * kTile)) - 1);
        const float* sums = half == 0 ? low_half : high_half;
        const float* rest = half == 0 ? low_rest : high_rest;
        for (size_t c = 0; c < tile.count; ++c) {
            float* out = tile.out[c] + first_row + kTile * half;
            __m512 value = _mm512_load_ps(sums + kTile * c);
            if (kRest) value = _mm512_add_ps(value, _mm512_load_ps(rest + kTile * c));
            if (!overwrite) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, out));
            _mm512_mask_storeu_ps(out, mask, value);
        }
    }
}

ATLAS_AMX_INLINE void ZeroSums() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}
ATLAS_AMX_INLINE void StoreSums(Sums* sums) {
    _tile_stored(0, sums->of[0], 64);
    _tile_stored(1, sums->of[1], 64);
    _tile_stored(2, sums->of[2], 64);
    _tile_stored(3, sums->of[3], 64);
}

using Columns = Gathered<static_cast<size_t>(kPanelDepth) * 2>;

/** A part of k times 32 columns: four sums at once. */
ATLAS_AMX __attribute__((noinline)) void Multiply(const WeightProduct& product, const PairPanel& panel, size_t elements,
                                                  const ActivationLayout& layout, size_t k, size_t first_row,
                                                  size_t rows) {
    Columns gathered[2];
    Sums sums;
    const auto count = static_cast<size_t>(product.n);
    for (size_t j = 0; j < count; j += 2 * kTile) {
        const bool two = j + kTile < count;
        const ColumnTile tiles[2] = {ColumnTile(product, layout.bytes, static_cast<int64_t>(j)),
                                     ColumnTile(product, layout.bytes, static_cast<int64_t>(two ? j + kTile : j))};
        ptrdiff_t stride0 = 0, stride1 = 0;
        const std::byte* a0 = gathered[0].take(tiles[0], layout.values + 2 * k, 2 * elements, &stride0);
        const std::byte* a1 = gathered[1].take(tiles[1], layout.values + 2 * k, 2 * elements, &stride1);
        ZeroSums();
        for (size_t i = 0; i < elements; i += kStep) {
            _tile_loadd(4, a0 + 2 * i, stride0);
            _tile_loadd(6, &panel.words[i / 2][0], kPanelStride);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, &panel.words[i / 2][kTile], kPanelStride);
            _tile_dpbf16ps(1, 4, 7);
            if (two) {
                _tile_loadd(5, a1 + 2 * i, stride1);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
        StoreSums(&sums);
        Finish<false>(sums.of[0], sums.of[1], nullptr, nullptr, tiles[0], first_row, rows, k == 0);
        if (two) Finish<false>(sums.of[2], sums.of[3], nullptr, nullptr, tiles[1], first_row, rows, k == 0);
    }
}

/** The same of sums of two bf16, times 16 columns: products of the upper parts, and the mixed ones beside them. */
ATLAS_AMX __attribute__((noinline)) void MultiplyParts(const WeightProduct& product, const PairPanel& high,
                                                       const PairPanel& low, size_t elements,
                                                       const ActivationLayout& layout, size_t k, size_t first_row,
                                                       size_t rows) {
    Columns gathered[2];
    Sums sums;
    const auto count = static_cast<size_t>(product.n);
    for (size_t j = 0; j < count; j += kTile) {
        const ColumnTile tile(product, layout.bytes, static_cast<int64_t>(j));
        ptrdiff_t stride = 0;
        const std::byte* a = gathered[0].take(tile, layout.high + 2 * k, 2 * elements, &stride);
        const std::byte* rest = gathered[1].take(tile, layout.low + 2 * k, 2 * elements, &stride);
        ZeroSums();
        for (size_t i = 0; i < elements; i += kStep) {
            _tile_loadd(4, a + 2 * i, stride);
            _tile_loadd(6, &high.words[i / 2][0], kPanelStride);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, &high.words[i / 2][kTile], kPanelStride);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(5, rest + 2 * i, stride);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
            _tile_loadd(6, &low.words[i / 2][0], kPanelStride);
            _tile_dpbf16ps(2, 4, 6);
            _tile_loadd(7, &low.words[i / 2][kTile], kPanelStride);
            _tile_dpbf16ps(3, 4, 7);
        }
        StoreSums(&sums);
        Finish<true>(sums.of[0], sums.of[1], sums.of[2], sums.of[3], tile, first_row, rows, k == 0);
    }
}

}  // namespace

ATLAS_AMX void multiply_floats_amx(const WeightProduct& product, int64_t begin, int64_t end) {
    const WeightMatrix& w = product.weights;
    const ActivationLayout layout(weight_type_info(w.type).activations, w.cols);
    const TileScope scope(shapes_full());
    PairPanel high, low;
    EachPanel(product, begin, end, is_pairs(w.type) ? 2 : 4, [&](const RowBlocks& rows, size_t first_row, size_t k) {
        // Activations are zero up to here, and so is the panel.
        const size_t padded = (rows.elements + kStep - 1) / kStep * kStep;
        fill_pair_panels(rows, &high, &low);
        if (is_pairs(w.type)) {
            Multiply(product, high, padded, layout, k, first_row, rows.rows);
        } else {
            MultiplyParts(product, high, low, padded, layout, k, first_row, rows.rows);
        }
    });
}

}  // namespace atlas::kernels::cpu
