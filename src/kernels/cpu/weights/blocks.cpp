#include <algorithm>

#include "kernels/cpu/vectors.h"
#include "kernels/cpu/weights/panel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/weights/blocks.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "kernels/cpu/settle-inl.h"

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

/** How sums of sub-blocks become sums of the panel. kLargestCode: no code is larger; 128: codes are signed bytes plus 128. */
template <size_t kSubSize, bool kScalePerSub, int kLargestCode>
struct Kind {
    static constexpr size_t kSub = kSubSize;
    static constexpr bool kPerSub = kScalePerSub;                                 // of the activations
    static constexpr bool kSigned = kLargestCode == 128 && !ATLAS_QUAD_PRODUCTS;  // panels hold the signed bytes
    /** So many products of four bytes, two of which are added at a time, fit a sum of 16 bits; activations are within ±128. */
    static constexpr size_t kRun =
        std::min(kSubSize / 4, static_cast<size_t>(32767 / (2 * 128 * std::min(kLargestCode, 127))));
    /** Sums of two widths and the totals are more than there are registers. */
    static constexpr bool kAside = kRun < kSub / 4 && !ATLAS_QUAD_PRODUCTS;
};

#if ATLAS_QUAD_PRODUCTS
/** sum + per 32-bit lane the four products of bytes. */
HWY_INLINE VI AddProducts(VI sum, VU codes, VU activations) {
    const hn::Repartition<uint8_t, D> d8;
    const hn::Repartition<int8_t, D> di8;
    return hn::SumOfMulQuadAccumulate(DI(), hn::BitCast(d8, codes), hn::BitCast(di8, activations), sum);
}
#else
using D16 = hn::Repartition<int16_t, D>;
using V16 = hn::Vec<D16>;

/** Codes of one word of two vectors of rows; of signed ones their sizes. */
template <class K>
struct Codes {
    VU word[2], size[2];
    HWY_INLINE void Load(const uint32_t* from) {
        ATLAS_UNROLL
        for (size_t h = 0; h < 2; ++h) {
            word[h] = size[h] = hn::Load(DU(), from + h * hn::Lanes(DU()));
            if (K::kSigned) size[h] = hn::BitCast(DU(), hn::Abs(hn::BitCast(hn::Repartition<int8_t, D>(), word[h])));
        }
    }
    /** Products with four activations, added in pairs. */
    HWY_INLINE V16 Times(size_t h, VU activations) const {
        const hn::Repartition<int8_t, D> d8;
        auto a = hn::BitCast(d8, activations);
        // The sign moves to the activation, since the multiplication takes unsigned codes only. Where a code is 0, its size is, too.
        if (K::kSigned) a = hn::IfNegativeThenNegOrUndefIfZero(hn::BitCast(d8, word[h]), a);
        return hn::SatWidenMulPairwiseAdd(D16(), hn::BitCast(hn::Repartition<uint8_t, D>(), size[h]), a);
    }
};
#endif

/** sum[c][h] += a sub-block's products with C columns, as far as whole numbers go; `words` are the panel's at the first vector of rows. */
template <class K, size_t C, class Columns>
HWY_INLINE void AddSubBlock(const uint32_t* HWY_RESTRICT words, const Columns& four_of, VI (&sum)[C][2]) {
#if ATLAS_QUAD_PRODUCTS
    const size_t lanes = hn::Lanes(D());
    ATLAS_UNROLL
    for (size_t q = 0; q < K::kSub / 4; ++q) {
        const VU w0 = hn::Load(DU(), words + q * kPanelRows);
        const VU w1 = hn::Load(DU(), words + q * kPanelRows + lanes);
        ATLAS_UNROLL
        for (size_t c = 0; c < C; ++c) {
            const VU a = four_of(c, q);
            sum[c][0] = AddProducts(sum[c][0], w0, a);
            sum[c][1] = AddProducts(sum[c][1], w1, a);
        }
    }
#else
    // Sums stay 16 bits wide as long as they fit: to widen them takes the same units as to multiply.
    const auto widen = [](V16 run) HWY_ATTR { return hn::WidenMulPairwiseAdd(DI(), run, hn::Set(D16(), 1)); };
    if constexpr (K::kRun > 2) {
        ATLAS_UNROLL
        for (size_t begin = 0; begin < K::kSub / 4; begin += K::kRun) {
            V16 run[C][2];
            ATLAS_UNROLL
            for (size_t q = 0; q < K::kRun; ++q) {
                Codes<K> codes;
                codes.Load(words + (begin + q) * kPanelRows);
                ATLAS_UNROLL
                for (size_t c = 0; c < C; ++c) {
                    const VU a = four_of(c, begin + q);
                    ATLAS_UNROLL
                    for (size_t h = 0; h < 2; ++h) {
                        run[c][h] = q == 0 ? codes.Times(h, a) : hn::Add(run[c][h], codes.Times(h, a));
                        Settle(run[c][h]);
                    }
                }
            }
            ATLAS_UNROLL
            for (size_t c = 0; c < C; ++c) {
                ATLAS_UNROLL
                for (size_t h = 0; h < 2; ++h) sum[c][h] = hn::Add(sum[c][h], widen(run[c][h]));
            }
        }
    } else {
        ATLAS_UNROLL
        for (size_t q = 0; q < K::kSub / 4; q += K::kRun) {
            Codes<K> codes[K::kRun];
            ATLAS_UNROLL
            for (size_t i = 0; i < K::kRun; ++i) codes[i].Load(words + (q + i) * kPanelRows);
            ATLAS_UNROLL
            for (size_t c = 0; c < C; ++c) {
                ATLAS_UNROLL
                for (size_t h = 0; h < 2; ++h) {
                    V16 run = codes[0].Times(h, four_of(c, q));
                    if (K::kRun == 2) run = hn::Add(run, codes[K::kRun - 1].Times(h, four_of(c, q + K::kRun - 1)));
                    sum[c][h] = hn::Add(sum[c][h], widen(run));
                    Settle(sum[c][h]);
                }
            }
        }
    }
#endif
}

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
            AddSubBlock<K, C>(
                words,
                [&](size_t c, size_t q) HWY_ATTR {
                    uint32_t four;
                    hwy::CopyBytes<4>(columns[c].codes + s * K::kSub + 4 * q, &four);
                    return hn::Set(du, four);
                },
                sum);
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
                if (K::kAside) {
                    PutAside(total[c][0]);
                    PutAside(total[c][1]);
                }
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
        column->first[s] = K::kSigned ? 0 : -kind.code_offset * sum;
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
            const RowBlocks blocks{w.type, data, w.row_stride, rows, elements, K::kSigned ? uint8_t{128} : uint8_t{0}};
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
#if ATLAS_QUAD_PRODUCTS
    // Sums are wide enough for any code.
    constexpr int kNibble = 128, kFive = 128, kSix = 128, kByte = 128;
#else
    constexpr int kNibble = 15, kFive = 31, kSix = 63, kByte = 128;
#endif
    switch (kind.largest_code) {
        case 15:
            if (per_sub) return Multiply<Kind<32, true, kNibble>>(product, kind, begin, end);
            if (kind.sub == 32) return Multiply<Kind<32, false, kNibble>>(product, kind, begin, end);
            return Multiply<Kind<16, false, kNibble>>(product, kind, begin, end);
        case 31:
            if (per_sub) return Multiply<Kind<32, true, kFive>>(product, kind, begin, end);
            return Multiply<Kind<32, false, kFive>>(product, kind, begin, end);
        case 63:
            return Multiply<Kind<16, false, kSix>>(product, kind, begin, end);
        default:
            if (per_sub) return Multiply<Kind<32, true, kByte>>(product, kind, begin, end);
            return Multiply<Kind<32, false, kByte>>(product, kind, begin, end);
    }
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
