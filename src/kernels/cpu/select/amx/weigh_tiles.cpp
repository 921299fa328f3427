#include "kernels/cpu/select/weigh_tiles.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/amx/exp2.h"
#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/amx/usable.h"

// A page's codes, taken apart, are tiles as they lie: words of four dimensions, a row of 16 keys per four dimensions.

namespace atlas::kernels::cpu {
namespace {

constexpr auto kKeys = static_cast<size_t>(kCodeKeys);
constexpr size_t kVectors = kKeys / 16;
/** Dimensions per tile. */
constexpr size_t kStep = 64;
constexpr size_t kMostDimensions = 256;

/** What does not change from row to row. */
struct Page {
    alignas(64) uint32_t codes[kMostDimensions / 4][kKeys];
    alignas(64) float mean[kMostDimensions];
    __m512 key_scale[kVectors];
};

ATLAS_AMX __attribute__((noinline)) void TakeApart(const CodeShape& shape, const std::byte* page, Page* out) {
    const auto d = static_cast<size_t>(shape.d);
    const auto* codes = reinterpret_cast<const uint32_t*>(page);
    const __m512i low = _mm512_set1_epi32(0x03030303);
    for (size_t g = 0; g < d / 16; ++g) {
        for (size_t key = 0; key < kKeys; key += 16) {
            __m512i word = _mm512_load_si512(codes + g * kKeys + key);
            for (size_t j = 0; j < 4; ++j) {
                _mm512_store_si512(&out->codes[4 * g + j][key], _mm512_and_si512(word, low));
                word = _mm512_srli_epi32(word, 2);
            }
        }
    }
    float scale = 0.0f;
    std::memcpy(&scale, page + shape.factors, sizeof scale);
    for (size_t i = 0; i < d; i += 16) {
        const __m128i mean = _mm_load_si128(reinterpret_cast<const __m128i*>(page + shape.mean + i));
        _mm512_store_ps(out->mean + i,
                        _mm512_mul_ps(_mm512_set1_ps(scale), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(mean))));
    }
    for (size_t v = 0; v < kVectors; ++v) {
        const auto* halves = reinterpret_cast<const __m256i*>(page + shape.key_scale + 32 * v);
        out->key_scale[v] = _mm512_cvtph_ps(_mm256_load_si256(halves));
    }
}

/** sums[row][key]: Σ query · code, of `blocks` times 16 rows. One after the other, so that the tiles' latencies overlap. */
ATLAS_AMX __attribute__((noinline)) void Multiply(const int8_t* queries, size_t blocks, const Page& page, size_t d,
                                                  int32_t* sums) {
    constexpr int kPageStride = static_cast<int>(kKeys * sizeof(uint32_t));
    const auto stride = static_cast<ptrdiff_t>(d);
    for (size_t block = 0; block < blocks; ++block, queries += kTile * d, sums += kTile * kKeys) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (size_t i = 0; i < d; i += kStep) {
            _tile_loadd(4, queries + i, stride);
            _tile_loadd(5, &page.codes[i / 4][0], kPageStride);
            _tile_dpbsud(0, 4, 5);
            _tile_loadd(6, &page.codes[i / 4][16], kPageStride);
            _tile_dpbsud(1, 4, 6);
            _tile_loadd(5, &page.codes[i / 4][32], kPageStride);
            _tile_dpbsud(2, 4, 5);
            _tile_loadd(6, &page.codes[i / 4][48], kPageStride);
            _tile_dpbsud(3, 4, 6);
        }
        _tile_stored(0, sums, kPageStride);
        _tile_stored(1, sums + 16, kPageStride);
        _tile_stored(2, sums + 32, kPageStride);
        _tile_stored(3, sums + 48, kPageStride);
    }
}

struct Sum {
    ATLAS_AMX_INLINE static __m512 of(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
};
struct Largest {
    ATLAS_AMX_INLINE static __m512 of(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
};

/** Lane i of the result: all lanes of r[i] together. */
template <class Together>
ATLAS_AMX_INLINE __m512 Reduce16(const __m512* r) {
    __m512 pairs[8], quads[4], halves[2];
    for (int i = 0; i < 8; ++i)
        pairs[i] = Together::of(_mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]), _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]));
    for (int i = 0; i < 4; ++i) {
        const __m512d a = _mm512_castps_pd(pairs[2 * i]), b = _mm512_castps_pd(pairs[2 * i + 1]);
        quads[i] = Together::of(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    for (int i = 0; i < 2; ++i) {
        const __m512 a = quads[2 * i], b = quads[2 * i + 1];
        halves[i] = Together::of(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    }
    return Together::of(_mm512_shuffle_f32x4(halves[0], halves[1], 0x88),
                        _mm512_shuffle_f32x4(halves[0], halves[1], 0xdd));
}

/** Products of each row of a [count][d] with b. */
ATLAS_AMX_INLINE __m512 Dots(const float* a, size_t count, const float* b, size_t d) {
    __m512 sums[kTile];
    for (size_t r = 0; r < kTile; ++r) {
        sums[r] = _mm512_setzero_ps();
        if (r >= count) continue;
        for (size_t i = 0; i < d; i += 16)
            sums[r] = _mm512_fmadd_ps(_mm512_loadu_ps(a + r * d + i), _mm512_load_ps(b + i), sums[r]);
    }
    return Reduce16<Sum>(sums);
}

/** 2^x, at most 2^100; 0 below −126 and for NaN. */
ATLAS_AMX_INLINE __m512 Weight(__m512 x) {
    const __mmask16 counts = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_GE_OQ);
    return Exp2<4>(_mm512_min_ps(x, _mm512_set1_ps(100.0f)), counts);
}

/** Products of up to 16 rows become weights. */
ATLAS_AMX_INLINE void WeighBlock(const Page& page, const CodeQueries& queries, size_t row, size_t count, size_t d,
                                 const int32_t* products, const float* shift, float* weights, float* sums,
                                 float* most) {
    const auto there = static_cast<__mmask16>((1u << count) - 1);
    alignas(64) float bases[kTile], scales[kTile], offsets[kTile];
    const __m512 scale = _mm512_maskz_loadu_ps(there, queries.scale + row);
    _mm512_store_ps(bases, _mm512_sub_ps(Dots(queries.exact + row * d, count, page.mean, d),
                                         _mm512_maskz_loadu_ps(there, shift + row)));
    _mm512_store_ps(scales, _mm512_add_ps(scale, scale));
    _mm512_store_ps(offsets, _mm512_mul_ps(scale, _mm512_maskz_loadu_ps(there, queries.offset + row)));
    __m512 sum[kTile], top[kTile];
    for (size_t r = 0; r < kTile; ++r) {
        sum[r] = top[r] = _mm512_setzero_ps();
        if (r >= count) continue;
        for (size_t v = 0; v < kVectors; ++v) {
            const __m512 product = _mm512_cvtepi32_ps(_mm512_load_si512(products + r * kKeys + 16 * v));
            const __m512 dot = _mm512_fmadd_ps(product, _mm512_set1_ps(scales[r]), _mm512_set1_ps(offsets[r]));
            const __m512 weight = Weight(_mm512_fmadd_ps(dot, page.key_scale[v], _mm512_set1_ps(bases[r])));
            _mm512_store_ps(weights + (row + r) * kKeys + 16 * v, weight);
            sum[r] = _mm512_add_ps(sum[r], weight);
            top[r] = _mm512_max_ps(top[r], weight);
        }
    }
    _mm512_mask_storeu_ps(sums + row, there, Reduce16<Sum>(sum));
    _mm512_mask_storeu_ps(most + row, there, Reduce16<Largest>(top));
}

}  // namespace

bool can_weigh_in_tiles(const CodeShape& shape, int64_t rows) {
    const auto d = static_cast<size_t>(shape.d);
    return rows >= static_cast<int64_t>(kTile) && d % kStep == 0 && d <= kMostDimensions && amx_usable();
}

ATLAS_AMX void weigh_codes_tiles(const CodeShape& shape, const CodeQueries& queries, const std::byte* page,
                                 const std::byte* ahead, const float* shift, float* weights, float* sums, float* most) {
    if (ahead != nullptr) {
        for (size_t at = 0; at < shape.bytes; at += 64) __builtin_prefetch(ahead + at, 0, 2);
    }
    const auto d = static_cast<size_t>(shape.d);
    const auto rows = static_cast<size_t>(queries.rows);
    Page apart;
    TakeApart(shape, page, &apart);
    TileShapes shapes;
    for (int tile = 0; tile < 8; ++tile) shapes.set(tile, kTile, 64);
    const TileScope scope(shapes);
    constexpr size_t kBlocks = 4;  // multiplied at once: their products stay in the first-level cache
    alignas(64) int32_t products[kBlocks * kTile * kKeys];
    alignas(64) int8_t last[kTile * kMostDimensions];
    for (size_t first = 0; first < rows; first += kBlocks * kTile) {
        const size_t whole = std::min(kBlocks, (rows - first) / kTile);
        Multiply(queries.codes + first * d, whole, apart, d, products);
        if (const size_t left = rows - first - whole * kTile; whole < kBlocks && left > 0) {
            // Nothing is read behind the last row.
            std::memset(last, 0, kTile * d);
            std::memcpy(last, queries.codes + (rows - left) * d, left * d);
            Multiply(last, 1, apart, d, products + whole * kTile * kKeys);
        }
        const size_t end = std::min(first + kBlocks * kTile, rows);
        for (size_t row = first; row < end; row += kTile) {
            const size_t count = std::min(kTile, end - row);
            WeighBlock(apart, queries, row, count, d, products + (row - first) * kKeys, shift, weights, sums, most);
        }
    }
}

}  // namespace atlas::kernels::cpu
