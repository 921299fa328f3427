// Per-target include: micro-kernels of many-query attention in f32. Rows are (token, head) pairs, broadcast one value at a time against
// vectors of keys (scores) or of value columns (results). K tiles are packed transposed, V tiles in column slices.
#if defined(ATLAS_KERNELS_PREFILL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATLAS_KERNELS_PREFILL_INL_H_
#undef ATLAS_KERNELS_PREFILL_INL_H_
#else
#define ATLAS_KERNELS_PREFILL_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cpu/attention/prefill_workspace.h"
#include "kernels/cpu/rows/load-inl.h"

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {

inline constexpr int kWidth = static_cast<int>(kLanes);

// Register block: kRows × kCols vectors of accumulators. 32 vector registers hold 6 × 4 (+ 4 columns, 1 broadcast), 16 hold 6 × 2.
inline constexpr int kRows = 6;
inline constexpr int kCols = kWidth >= 16 || HWY_TARGET == HWY_NEON ? 4 : 2;
inline constexpr int kTile = kBlockKeys;  // keys per tile
static_assert(kTile % (kWidth * kCols) == 0);

// Weights may exceed 1 by this factor (2^kSlack) before a row is rescaled: no horizontal maximum per tile, and f32 has room.
inline constexpr float kSlack = 8.0f;

// s[kRows][kTile] (NC vectors at column 0) = Σ_i q[i][kRows] · k[i][kTile].
template <int NC>
HWY_INLINE void ScoreBlock6(const float* HWY_RESTRICT q, const float* HWY_RESTRICT k, int64_t d,
                            float* HWY_RESTRICT s) {
    const D tag;
    V acc[kRows][NC];
    ATLAS_UNROLL
    for (int r = 0; r < kRows; ++r) {
        ATLAS_UNROLL
        for (int c = 0; c < NC; ++c) acc[r][c] = hn::Zero(tag);
    }
    for (int64_t i = 0; i < d; ++i) {
        V b[NC];
        ATLAS_UNROLL
        for (int c = 0; c < NC; ++c) b[c] = hn::Load(tag, k + i * kTile + c * kWidth);
        ATLAS_UNROLL
        for (int r = 0; r < kRows; ++r) {
            const V a = hn::Set(tag, q[i * kRows + r]);
            ATLAS_UNROLL
            for (int c = 0; c < NC; ++c) acc[r][c] = hn::MulAdd(a, b[c], acc[r][c]);
        }
    }
    ATLAS_UNROLL
    for (int r = 0; r < kRows; ++r) {
        ATLAS_UNROLL
        for (int c = 0; c < NC; ++c) hn::Store(acc[r][c], tag, s + r * kTile + c * kWidth);
    }
}

// o[kRows][o_stride] (NC vectors) = o · correction + Σ_j p[kRows][j] · v[j][NC · kWidth].
template <int NC>
HWY_INLINE void ValueBlock6(const float* HWY_RESTRICT p, const float* HWY_RESTRICT v, int n_keys,
                            const float* HWY_RESTRICT correction, float* HWY_RESTRICT o, int64_t o_stride) {
    const D tag;
    V acc[kRows][NC];
    ATLAS_UNROLL
    for (int r = 0; r < kRows; ++r) {
        const V f = hn::Set(tag, correction[r]);
        ATLAS_UNROLL
        for (int c = 0; c < NC; ++c) acc[r][c] = hn::Mul(f, hn::Load(tag, o + r * o_stride + c * kWidth));
    }
    for (int j = 0; j < n_keys; ++j) {
        V b[NC];
        ATLAS_UNROLL
        for (int c = 0; c < NC; ++c) b[c] = hn::Load(tag, v + j * (NC * kWidth) + c * kWidth);
        ATLAS_UNROLL
        for (int r = 0; r < kRows; ++r) {
            const V a = hn::Set(tag, p[r * kTile + j]);
            ATLAS_UNROLL
            for (int c = 0; c < NC; ++c) acc[r][c] = hn::MulAdd(a, b[c], acc[r][c]);
        }
    }
    ATLAS_UNROLL
    for (int r = 0; r < kRows; ++r) {
        ATLAS_UNROLL
        for (int c = 0; c < NC; ++c) hn::Store(acc[r][c], tag, o + r * o_stride + c * kWidth);
    }
}

// Columns of V are cut into slices of at most kCols vectors, as even as possible; slice i of the panel is [kTile][slice width].
struct ValueSlices {
    int n_vectors, n_slices;
    explicit ValueSlices(int64_t d_v)
        : n_vectors(static_cast<int>((d_v + kWidth - 1) / kWidth)), n_slices((n_vectors + kCols - 1) / kCols) {}
    int begin(int slice) const { return n_vectors * slice / n_slices; }  // in vectors

    /** Puts a decoded row of V (padded to whole vectors) where key `key` of the panel belongs. */
    void Scatter(const float* HWY_RESTRICT row, int key, float* HWY_RESTRICT panel) const {
        const D tag;
        for (int i = 0; i < n_slices; ++i) {
            const int first = begin(i), width = begin(i + 1) - first;
            float* to = panel + (static_cast<int64_t>(first) * kTile + static_cast<int64_t>(key) * width) * kWidth;
            for (int c = 0; c < width; ++c) hn::Store(hn::Load(tag, row + (first + c) * kWidth), tag, to + c * kWidth);
        }
    }
};

inline void AddValues(const float* p, const float* v, int n_keys, const ValueSlices& slices, const float* correction,
                      float* o, int64_t o_stride) {
    for (int i = 0; i < slices.n_slices; ++i) {
        const int begin = slices.begin(i);
        const float* panel = v + static_cast<int64_t>(begin) * kWidth * kTile;
        float* dst = o + static_cast<int64_t>(begin) * kWidth;
        switch (slices.begin(i + 1) - begin) {
            case 1:
                ValueBlock6<1>(p, panel, n_keys, correction, dst, o_stride);
                break;
            case 2:
                ValueBlock6<2>(p, panel, n_keys, correction, dst, o_stride);
                break;
            case 3:
                ValueBlock6 < kCols<3 ? kCols : 3>(p, panel, n_keys, correction, dst, o_stride);
                break;
            default:
                ValueBlock6<kCols>(p, panel, n_keys, correction, dst, o_stride);
                break;
        }
    }
}

// 2^x for x ≤ 2^kSlack, 0 for x ≤ −126 and −inf, NaN for NaN. Relative error < 2e-7 (degree-5 minimax polynomial on [−½, ½]).
HWY_INLINE V Exp2Weight(V x) {
    const D tag;
    const hn::RebindToSigned<D> int_tag;
    const V magic =
        hn::Set(tag, 12582912.0f);  // 1.5 · 2^23: adding it rounds to an integer, left in the low mantissa bits
    const V rounded = hn::Add(x, magic);
    const V f = hn::Sub(x, hn::Sub(rounded, magic));
    V y = hn::Set(tag, 0.0013276472f);
    y = hn::MulAdd(y, f, hn::Set(tag, 0.00967554133f));
    y = hn::MulAdd(y, f, hn::Set(tag, 0.0555071327f));
    y = hn::MulAdd(y, f, hn::Set(tag, 0.240221197f));
    y = hn::MulAdd(y, f, hn::Set(tag, 0.693146967f));
    y = hn::MulAdd(y, f, hn::Set(tag, 1.0f));
    const auto exponent = hn::ShiftLeft<23>(hn::BitCast(int_tag, rounded));
    const V scaled = hn::BitCast(tag, hn::Add(hn::BitCast(int_tag, y), exponent));
    const V least = hn::Set(tag, -126.0f);
    return hn::IfThenElse(hn::Gt(x, least), scaled, hn::IfThenZeroElse(hn::Le(x, least), x));
}

// Running state of one row: maximum (base-2 logit units) and lane-wise sums of weights.
struct RowState {
    float* max;  // one value
    float* sum;  // [kWidth]
};

struct LogitTransform {
    float softcap2;        // softcap · log2 e, or 0; scores then arrive divided by softcap
    const uint16_t* mask;  // f16 [kTile] or nullptr
    float slope2;          // slope · log2 e
};

/** Turns kTile scores of a row into base-2 logits, in place. */
HWY_INLINE void Transform(float* HWY_RESTRICT s, const LogitTransform& transform) {
    const D tag;
    if (transform.softcap2 != 0.0f) {
        for (int j = 0; j < kTile; j += kWidth) {
            hn::Store(hn::Mul(hn::Set(tag, transform.softcap2), hn::Tanh(tag, hn::Load(tag, s + j))), tag, s + j);
        }
    }
    if (transform.mask != nullptr) {
        const hn::Rebind<hwy::float16_t, D> half_tag;
        const V slope = hn::Set(tag, transform.slope2);
        const V minus_inf = hn::Set(tag, -HUGE_VALF);
        for (int j = 0; j < kTile; j += kWidth) {
            const V bias =
                hn::PromoteTo(tag, hn::LoadU(half_tag, reinterpret_cast<const hwy::float16_t*>(transform.mask + j)));
            const V biased = hn::MulAdd(slope, bias, hn::Load(tag, s + j));
            // A select, so that whatever lies in a masked key (NaN too) has weight 0.
            hn::Store(hn::IfThenElse(hn::Eq(bias, minus_inf), minus_inf, biased), tag, s + j);
        }
    }
}

/** Turns kTile logits of a row into weights in place; returns the factor by which what was summed so far must be scaled. */
HWY_INLINE float SoftmaxRow(float* HWY_RESTRICT s, RowState state) {
    constexpr int kVectors = kTile / kWidth;
    const D tag;
    V top = hn::Load(tag, s);
    for (int i = 1; i < kVectors; ++i) top = hn::Max(top, hn::Load(tag, s + i * kWidth));
    float max = *state.max;
    float correction = 1.0f;
    V sum = hn::Load(tag, state.sum);
    if (!hn::AllFalse(tag, hn::Gt(top, hn::Set(tag, max + kSlack)))) {
        const float raised = hn::ReduceMax(tag, top);
        correction = std::exp2(max - raised);
        max = *state.max = raised;
        sum = hn::Mul(sum, hn::Set(tag, correction));
    }
    // While nothing was visible, −inf − (−inf) would be NaN.
    const V m = hn::Set(tag, max == -HUGE_VALF ? 0.0f : max);
    ATLAS_UNROLL
    for (int i = 0; i < kVectors; ++i) {
        const V w = Exp2Weight(hn::Sub(hn::Load(tag, s + i * kWidth), m));
        hn::Store(w, tag, s + i * kWidth);
        sum = hn::Add(sum, w);
    }
    hn::Store(sum, tag, state.sum);
    return correction;
}

/** panel[i][kTile], columns [0, 4): four keys of `d` elements (multiple of kWidth readable), src[4][src_stride], transposed. */
template <class Tag>  // a template so that the blocks which narrower vectors lack are not instantiated
HWY_INLINE void Transpose4(Tag tag, const float* HWY_RESTRICT src, int64_t src_stride, int64_t d,
                           float* HWY_RESTRICT panel) {
    using Vec = hn::Vec<Tag>;
    const hn::Repartition<double, Tag> pair_tag;
    const hn::Full128<float> block_tag;
    constexpr int kBlocks = kWidth / 4;
    for (int64_t i = 0; i < d; i += kWidth) {
        const Vec a = hn::Load(tag, src + i);
        const Vec b = hn::Load(tag, src + src_stride + i);
        const Vec c = hn::Load(tag, src + 2 * src_stride + i);
        const Vec e = hn::Load(tag, src + 3 * src_stride + i);
        const auto ab_lo = hn::BitCast(pair_tag, hn::InterleaveLower(tag, a, b));  // per 128-bit block: a0 b0 a1 b1
        const auto ab_hi = hn::BitCast(pair_tag, hn::InterleaveUpper(tag, a, b));
        const auto ce_lo = hn::BitCast(pair_tag, hn::InterleaveLower(tag, c, e));
        const auto ce_hi = hn::BitCast(pair_tag, hn::InterleaveUpper(tag, c, e));
        const Vec t[4] = {hn::BitCast(tag, hn::InterleaveLower(pair_tag, ab_lo, ce_lo)),
                          hn::BitCast(tag, hn::InterleaveUpper(pair_tag, ab_lo, ce_lo)),
                          hn::BitCast(tag, hn::InterleaveLower(pair_tag, ab_hi, ce_hi)),
                          hn::BitCast(tag, hn::InterleaveUpper(pair_tag, ab_hi, ce_hi))};
        float* dst = panel + i * kTile;
        ATLAS_UNROLL
        for (int j = 0; j < 4; ++j) {  // block n of t[j] holds element 4n + j of the four keys
            hn::Store(hn::ExtractBlock<0>(t[j]), block_tag, dst + j * kTile);
            if constexpr (kBlocks > 1) hn::Store(hn::ExtractBlock<1>(t[j]), block_tag, dst + (4 + j) * kTile);
            if constexpr (kBlocks > 2) {
                hn::Store(hn::ExtractBlock<2>(t[j]), block_tag, dst + (8 + j) * kTile);
                hn::Store(hn::ExtractBlock<3>(t[j]), block_tag, dst + (12 + j) * kTile);
            }
        }
    }
}

/** What a task multiplies, in vectors of f32: packing and the two products. SplitProducts (split_tile.h) is the same on tiles. */
class VectorProducts {
public:
    static constexpr PrefillShape kShape = kVectorShape;

    VectorProducts(const AttentionArgs& args, const PrefillWorkspace& ws, int64_t /*rows*/)
        : ws_(ws),
          d_k_(args.d_k),
          k_stride_(round_up(args.d_k, kPad)),
          o_stride_(round_up(args.d_v, kPad)),
          slices_(args.d_v) {}

    /** Row `row` of the queries times `factor`; null: zeros. */
    void put_query(int64_t row, const float* from, float factor) const {
        float* to = ws_.q + row / kRows * kRows * d_k_ + row % kRows;
        for (int64_t i = 0; i < d_k_; ++i) to[i * kRows] = from == nullptr ? 0.0f : from[i] * factor;
    }
    /** The decoded rows become keys column, column + 1, …; then what follows column `end` is zero. */
    void put_keys(int column) const { Transpose4(D(), ws_.decoded, k_stride_, d_k_, ws_.k_panel + column); }
    void end_keys(int end) const {
        if (end == kTile) return;
        for (int64_t i = 0; i < d_k_; ++i)
            std::fill(ws_.k_panel + i * kTile + end, ws_.k_panel + (i + 1) * kTile, 0.0f);
    }
    void put_values(int key) const {
        for (int j = 0; j < kShape.decode_rows; ++j) slices_.Scatter(ws_.decoded + j * o_stride_, key + j, ws_.v_panel);
    }
    void end_values(int /*end*/) const {}

    /** s[row_block][kTile], of rows first, first + 1, … of which `n` are there. */
    void scores(int64_t first, int64_t /*n*/) const {
        const float* q = ws_.q + first * d_k_;
        for (int c = 0; c < kTile; c += kCols * kWidth) ScoreBlock6<kCols>(q, ws_.k_panel + c, d_k_, ws_.s + c);
    }
    /** Logits of row r of the block become weights; `max` and `sum` are the row's. Returns the correction. */
    float weigh(int64_t r, float /*slack*/, float* max, float* sum) const {
        return SoftmaxRow(ws_.s + r * kTile, {max, sum});
    }
    /** Row r of the block sees nothing. */
    void weigh_nothing(int64_t r) const { std::fill_n(ws_.s + r * kTile, kTile, 0.0f); }
    /** o = o · correction + s · values. */
    void add_values(int64_t first, int64_t /*n*/, int n_keys) const {
        AddValues(ws_.s, ws_.v_panel, n_keys, slices_, ws_.correction, ws_.o + first * o_stride_, o_stride_);
    }

private:
    const PrefillWorkspace& ws_;
    const int64_t d_k_, k_stride_, o_stride_;
    const ValueSlices slices_;
};

}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // ATLAS_KERNELS_PREFILL_INL_H_
