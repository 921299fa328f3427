#include <algorithm>

#include "kernels/cpu/vectors.h"
#include "kernels/cpu/weights/panel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/weights/blocks.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;
using DI = hn::Rebind<int32_t, D>;
using DU = hn::Rebind<uint32_t, D>;
using VI = hn::Vec<DI>;
using VU = hn::Vec<DU>;

constexpr size_t kMaxSubs = static_cast<size_t>(kPanelDepth) / 16;
/** Columns that share the loads of a panel: two vectors of rows, in integers and in f32, fill the registers. */
constexpr size_t kColumns = HWY_MAX_BYTES >= 64 || HWY_TARGET == HWY_NEON || HWY_TARGET == HWY_NEON_BF16 ? 6 : 3;

#undef ATLAS_QUAD_PRODUCTS
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
#define ATLAS_QUAD_PRODUCTS 0
#else
#define ATLAS_QUAD_PRODUCTS 1
#endif

/** What a block of columns needs of one column. */
struct Column {
    const int8_t* codes;      // of this part of k
    const float* scales;      // one per sub-block, or one
    int32_t first[kMaxSubs];  // −code_offset · Σ codes of a sub-block: where its sum begins
    float sums[kMaxSubs];     // what minima are multiplied with
    float* out;
};

/** sum + per 32-bit lane the four products of bytes. kWide: codes up to 255, else up to 63. */
template <bool kWide>
HWY_INLINE VI AddProducts(VI sum, VU codes, VU activations) {
    const hn::Repartition<uint8_t, D> d8;
    const hn::Repartition<int8_t, D> di8;
#if ATLAS_QUAD_PRODUCTS
    return hn::SumOfMulQuadAccumulate(DI(), hn::BitCast(d8, codes), hn::BitCast(di8, activations), sum);
#else
    const hn::Repartition<int16_t, D> d16;
    if constexpr (kWide) {
        return hn::SumOfMulQuadAccumulate(DI(), hn::BitCast(d8, codes), hn::BitCast(di8, activations), sum);
    } else {
        const auto pairs = hn::SatWidenMulPairwiseAdd(d16, hn::BitCast(d8, codes), hn::BitCast(di8, activations));
        return hn::Add(sum, hn::WidenMulPairwiseAdd(DI(), pairs, hn::Set(d16, 1)));
    }
#endif
}

/** How sums of sub-blocks become sums of the panel. */
template <size_t kSubSize, bool kScalePerSub, bool kWideCodes>
struct Kind {
    static constexpr size_t kSub = kSubSize;
    static constexpr bool kPerSub = kScalePerSub;  // of the activations
    static constexpr bool kWide = kWideCodes;
};

/** The panel times C columns. `overwrite`: this is the first part of k. */
template <class K, size_t C>
HWY_NOINLINE void Block(const Panel& panel, size_t subs, bool minima, const Column* HWY_RESTRICT columns, size_t rows,
                        bool overwrite) {
    const D d;
    const DI di;
    const DU du;
    const size_t lanes = hn::Lanes(d);
    for (size_t v = 0; v < rows; v += 2 * lanes) {
        V total[C][2];
        ATLAS_UNROLL
        for (size_t c = 0; c < C; ++c) total[c][0] = total[c][1] = hn::Zero(d);
        const auto* words = reinterpret_cast<const uint32_t*>(panel.codes) + v;
        for (size_t s = 0; s < subs; ++s, words += K::kSub / 4 * kPanelRows) {
            VI sum[C][2];
            ATLAS_UNROLL
            for (size_t c = 0; c < C; ++c) sum[c][0] = sum[c][1] = hn::Set(di, columns[c].first[s]);
            ATLAS_UNROLL
            for (size_t q = 0; q < K::kSub / 4; ++q) {
                const VU w0 = hn::Load(du, words + q * kPanelRows);
                const VU w1 = hn::Load(du, words + q * kPanelRows + lanes);
                ATLAS_UNROLL
                for (size_t c = 0; c < C; ++c) {
                    uint32_t four;
                    hwy::CopyBytes<4>(columns[c].codes + s * K::kSub + 4 * q, &four);
                    const VU a = hn::Set(du, four);
                    sum[c][0] = AddProducts<K::kWide>(sum[c][0], w0, a);
                    sum[c][1] = AddProducts<K::kWide>(sum[c][1], w1, a);
                }
            }
            const V scale0 = hn::Load(d, panel.scales[s] + v);
            const V scale1 = hn::Load(d, panel.scales[s] + v + lanes);
            ATLAS_UNROLL
            for (size_t c = 0; c < C; ++c) {
                V x0 = hn::ConvertTo(d, sum[c][0]);
                V x1 = hn::ConvertTo(d, sum[c][1]);
                if (K::kPerSub) {
                    const V by = hn::Set(d, columns[c].scales[s]);
                    x0 = hn::Mul(x0, by);
                    x1 = hn::Mul(x1, by);
                }
                total[c][0] = hn::MulAdd(x0, scale0, total[c][0]);
                total[c][1] = hn::MulAdd(x1, scale1, total[c][1]);
            }
            if (minima) {
                const V minimum0 = hn::Load(d, panel.minima[s] + v);
                const V minimum1 = hn::Load(d, panel.minima[s] + v + lanes);
                ATLAS_UNROLL
                for (size_t c = 0; c < C; ++c) {
                    const V of = hn::Set(d, columns[c].sums[s]);
                    total[c][0] = hn::MulAdd(minimum0, of, total[c][0]);
                    total[c][1] = hn::MulAdd(minimum1, of, total[c][1]);
                }
            }
        }
        ATLAS_UNROLL
        for (size_t c = 0; c < C; ++c) {
            ATLAS_UNROLL
            for (size_t h = 0; h < 2; ++h) {
                const size_t at = v + h * lanes;
                if (at >= rows) break;
                V value = total[c][h];
                if (!K::kPerSub) value = hn::Mul(value, hn::Set(d, columns[c].scales[0]));
                float* out = columns[c].out + at;
                const size_t left = rows - at;
                if (left >= lanes) {
                    if (!overwrite) value = hn::Add(value, hn::LoadU(d, out));
                    hn::StoreU(value, d, out);
                } else {
                    if (!overwrite) value = hn::Add(value, hn::LoadN(d, out, left));
                    hn::StoreN(value, d, out, left);
                }
            }
        }
    }
}

template <class K, size_t C>
HWY_INLINE void Blocks(size_t count, const Panel& panel, size_t subs, bool minima, const Column* columns, size_t rows,
                       bool overwrite) {
    if (count == C) {
        Block<K, C>(panel, subs, minima, columns, rows, overwrite);
    } else if constexpr (C > 1) {
        Blocks<K, C - 1>(count, panel, subs, minima, columns, rows, overwrite);
    }
}

/** What `column` needs for the part of k at element `at`. */
template <class K>
HWY_INLINE void Prepare(const PanelKind& kind, const ActivationLayout& layout, const std::byte* from, size_t at,
                        size_t subs, Column* column) {
    column->codes = reinterpret_cast<const int8_t*>(from + layout.codes) + at;
    const size_t unit = K::kPerSub ? 32 : 16;
    const auto* sums = reinterpret_cast<const int32_t*>(from + layout.sums) + at / unit;
    column->scales = reinterpret_cast<const float*>(from + layout.scales) + at / (K::kPerSub ? 32 : 256);
    const bool pairs = !K::kPerSub && K::kSub == 32;
    const float* offsets = reinterpret_cast<const float*>(from + layout.offsets) + at / 32;
    for (size_t s = 0; s < subs; ++s) {
        const int32_t sum = pairs ? sums[2 * s] + sums[2 * s + 1] : sums[s];
        column->first[s] = -kind.code_offset * sum;
        column->sums[s] = K::kPerSub ? offsets[s] : static_cast<float>(sum);
    }
}

template <class K>
void Multiply(const WeightProduct& product, const PanelKind& kind, int64_t begin, int64_t end) {
    const WeightMatrix& w = product.weights;
    const WeightTypeInfo& info = weight_type_info(w.type);
    const ActivationLayout layout(info.activations, w.cols);
    Panel panel;
    for (int64_t r = begin; r < end; r += kWeightPanel) {
        const auto rows = static_cast<size_t>(std::min(kWeightPanel, end - r));
        for (int64_t at = 0; at < w.cols; at += kPanelDepth) {
            const auto elements = static_cast<size_t>(std::min(kPanelDepth, w.cols - at));
            const auto* data = reinterpret_cast<const uint8_t*>(w.data) + static_cast<size_t>(r) * w.row_stride +
                               weight_row_bytes(w.type, at);
            const RowBlocks blocks{w.type, data, w.row_stride, rows, elements};
            K::kPerSub ? fill_panel_32(blocks, &panel) : fill_panel_256(blocks, &panel);
            const size_t subs = elements / K::kSub;
            Column columns[kColumns];
            for (int64_t j = 0; j < product.n; j += static_cast<int64_t>(kColumns)) {
                const size_t count = std::min(kColumns, static_cast<size_t>(product.n - j));
                for (size_t c = 0; c < count; ++c) {
                    const ColumnPair pair = column_pair(product, j + static_cast<int64_t>(c));
                    Prepare<K>(kind, layout, product.activations + static_cast<size_t>(pair.in) * layout.bytes,
                               static_cast<size_t>(at), subs, &columns[c]);
                    columns[c].out = product.out + static_cast<size_t>(pair.out) * product.out_stride + r;
                }
                Blocks<K, kColumns>(count, panel, subs, kind.minima, columns, rows, at == 0);
            }
        }
    }
}

void MultiplyBlocks(const WeightProduct& product, int64_t begin, int64_t end) {
    const PanelKind kind = panel_kind(product.weights.type);
    const bool per_sub = weight_type_info(product.weights.type).activations == ActivationType::kQ8;
    const bool wide = kind.code_offset == 128;
#if ATLAS_QUAD_PRODUCTS
    constexpr bool kWide = false;  // no difference
    (void)wide;
#else
    constexpr bool kWide = true;
    if (!wide) {
        if (per_sub) return Multiply<Kind<32, true, false>>(product, kind, begin, end);
        if (kind.sub == 32) return Multiply<Kind<32, false, false>>(product, kind, begin, end);
    }
#endif
    if (per_sub) return Multiply<Kind<32, true, kWide>>(product, kind, begin, end);
    if (kind.sub == 32) return Multiply<Kind<32, false, kWide>>(product, kind, begin, end);
    return Multiply<Kind<16, false, false>>(product, kind, begin, end);
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {
HWY_EXPORT(MultiplyBlocks);
void multiply_blocks(const WeightProduct& product, int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(MultiplyBlocks)(product, begin, end);
}
}  // namespace atlas::kernels::cpu
#endif
