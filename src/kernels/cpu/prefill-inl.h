// Per-target include: the many-query kernels. Vectors hold kTileQueries queries in their lanes, so K and V rows are read as broadcast
// scalars and need no transposition, and the softmax runs down the lanes.
#if defined(ATLAS_KERNELS_PREFILL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATLAS_KERNELS_PREFILL_INL_H_
#undef ATLAS_KERNELS_PREFILL_INL_H_
#else
#define ATLAS_KERNELS_PREFILL_INL_H_
#endif

#include "kernels/cpu/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {

// Register block: kRows broadcast rows × kColumns vectors of queries; 24 accumulators of 32 registers, or 12 of 16.
inline constexpr size_t kTileRows = 6;
inline constexpr size_t kTileVectors = kLanes >= 16 || HWY_TARGET == HWY_NEON ? 4 : 2;
inline constexpr size_t kTileColumns = kTileVectors * kLanes;
static_assert(kTileQueries % kTileColumns == 0);

/** s[j][r] for kRows keys: rows of k are d apart; the sum runs over dimensions. */
template <size_t kRows>
HWY_INLINE void ScoreTile(const float* HWY_RESTRICT q, const float* HWY_RESTRICT k, size_t d, float* HWY_RESTRICT s) {
    V sum[kRows][kTileVectors];
    for (size_t j = 0; j < kRows; ++j) {
        for (size_t x = 0; x < kTileVectors; ++x) sum[j][x] = hn::Zero(D());
    }
    for (size_t i = 0; i < d; ++i) {
        V query[kTileVectors];
        for (size_t x = 0; x < kTileVectors; ++x) query[x] = hn::Load(D(), q + i * kTileQueries + x * kLanes);
        for (size_t j = 0; j < kRows; ++j) {
            const V key = hn::Set(D(), k[j * d + i]);
            for (size_t x = 0; x < kTileVectors; ++x) sum[j][x] = hn::MulAdd(key, query[x], sum[j][x]);
        }
    }
    for (size_t j = 0; j < kRows; ++j) {
        for (size_t x = 0; x < kTileVectors; ++x) hn::Store(sum[j][x], D(), s + j * kTileQueries + x * kLanes);
    }
}

/** o[i][r] for kRows dimensions: the sum runs over keys. */
template <size_t kRows>
HWY_INLINE void ValueTile(const float* HWY_RESTRICT v, const float* HWY_RESTRICT s, size_t count, size_t d, const float* HWY_RESTRICT shrink,
                          float* HWY_RESTRICT o) {
    V sum[kRows][kTileVectors];
    for (size_t x = 0; x < kTileVectors; ++x) {
        const V factor = shrink ? hn::Load(D(), shrink + x * kLanes) : hn::Set(D(), 1.0f);
        for (size_t i = 0; i < kRows; ++i) sum[i][x] = hn::Mul(factor, hn::Load(D(), o + i * kTileQueries + x * kLanes));
    }
    for (size_t j = 0; j < count; ++j) {
        V weight[kTileVectors];
        for (size_t x = 0; x < kTileVectors; ++x) weight[x] = hn::Load(D(), s + j * kTileQueries + x * kLanes);
        for (size_t i = 0; i < kRows; ++i) {
            const V value = hn::Set(D(), v[j * d + i]);
            for (size_t x = 0; x < kTileVectors; ++x) sum[i][x] = hn::MulAdd(value, weight[x], sum[i][x]);
        }
    }
    for (size_t i = 0; i < kRows; ++i) {
        for (size_t x = 0; x < kTileVectors; ++x) hn::Store(sum[i][x], D(), o + i * kTileQueries + x * kLanes);
    }
}

inline void TileScore(const float* q, const float* k, size_t count, size_t d, float* s) {
    for (size_t column = 0; column < kTileQueries; column += kTileColumns) {
        size_t j = 0;
        for (; j + kTileRows <= count; j += kTileRows) ScoreTile<kTileRows>(q + column, k + j * d, d, s + j * kTileQueries + column);
        for (; j + 2 <= count; j += 2) ScoreTile<2>(q + column, k + j * d, d, s + j * kTileQueries + column);
        if (j < count) ScoreTile<1>(q + column, k + j * d, d, s + j * kTileQueries + column);
    }
}

inline void TileValue(const float* v, const float* s, size_t count, size_t d, const float* shrink, float* o) {
    for (size_t column = 0; column < kTileQueries; column += kTileColumns) {
        const float* factor = shrink ? shrink + column : nullptr;
        size_t i = 0;
        for (; i + kTileRows <= d; i += kTileRows) ValueTile<kTileRows>(v + i, s + column, count, d, factor, o + i * kTileQueries + column);
        for (; i + 2 <= d; i += 2) ValueTile<2>(v + i, s + column, count, d, factor, o + i * kTileQueries + column);
        if (i < d) ValueTile<1>(v + i, s + column, count, d, factor, o + i * kTileQueries + column);
    }
}

inline bool TileSoftmax(float* s, size_t count, float* max, float* sum, float* shrink) {
    const D d;
    const V lowest = hn::Set(d, -HUGE_VALF);
    bool any_shrinks = false;
    for (size_t column = 0; column < kTileQueries; column += kLanes) {
        V best = lowest;
        V other = lowest;
        size_t j = 0;
        for (; j + 2 <= count; j += 2) {
            best = hn::Max(best, hn::Load(d, s + j * kTileQueries + column));
            other = hn::Max(other, hn::Load(d, s + (j + 1) * kTileQueries + column));
        }
        if (j < count) best = hn::Max(best, hn::Load(d, s + j * kTileQueries + column));
        const V before = hn::Load(d, max + column);
        const V now = hn::Max(before, hn::Max(best, other));
        // Where nothing is visible yet, any finite shift turns −inf into weights of 0.
        const V shift = hn::IfThenElse(hn::Eq(now, lowest), hn::Zero(d), now);
        const V factor = hn::IfThenElse(hn::Eq(before, now), hn::Set(d, 1.0f), Exp(hn::Sub(before, shift)));
        any_shrinks |= !hn::AllTrue(d, hn::Eq(before, now));
        V total = hn::Mul(hn::Load(d, sum + column), factor);
        for (j = 0; j < count; ++j) {
            float* at = s + j * kTileQueries + column;
            const V e = Exp(hn::Sub(hn::Load(d, at), shift));
            hn::Store(e, d, at);
            total = hn::Add(total, e);
        }
        hn::Store(now, d, max + column);
        hn::Store(total, d, sum + column);
        hn::Store(factor, d, shrink + column);
    }
    return any_shrinks;
}

}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
