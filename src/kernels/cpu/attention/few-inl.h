// Per-target include: the few-query kernels. K and V stream through once; queries and results stay in registers and L1.
#if defined(ATLAS_KERNELS_FEW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATLAS_KERNELS_FEW_INL_H_
#undef ATLAS_KERNELS_FEW_INL_H_
#else
#define ATLAS_KERNELS_FEW_INL_H_
#endif

#include "kernels/cpu/attention/row_ops.h"
#include "kernels/cpu/rows/load-inl.h"

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {

// Keys and heads of one register block: 16 accumulators where there are 32 registers, else 4.
inline constexpr size_t kKeyBlock = 4;
inline constexpr size_t kHeadBlock = kLanes >= 16 || HWY_TARGET == HWY_NEON ? 4 : 2;
/** Brings a row's lines to L2: a whole piece ahead would push the piece at work out of L1. */
HWY_INLINE void PrefetchRow(const uint8_t* row, size_t bytes) {
    for (size_t b = 0; b < bytes; b += 64) __builtin_prefetch(row + b, 0, 2);
}

HWY_INLINE const uint8_t* RowAt(const std::byte* const* rows, size_t j, int64_t shift) {
    return reinterpret_cast<const uint8_t*>(rows[j] + shift);
}

/** Adds up a vector's blocks of four lanes. */
template <class DV, class VV>
HWY_INLINE auto SumOfBlocks(DV d, VV v) {
    if constexpr (hn::MaxLanes(d) == 4) {
        return v;
    } else {
        const hn::Half<DV> half;
        return SumOfBlocks(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
    }
}

/** Sums of four vectors, as lanes 0–3. */
HWY_INLINE hn::Vec<hn::FixedTag<float, 4>> SumOfFour(V a, V b, V c, V e) {
    const D d;
    const hn::RepartitionToWide<D> d64;
    const V ab = hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
    const V ce = hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e));
    const auto ab64 = hn::BitCast(d64, ab);
    const auto ce64 = hn::BitCast(d64, ce);
    const V blocks = hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, ab64, ce64)),
                             hn::BitCast(d, hn::InterleaveUpper(d64, ab64, ce64)));
    return SumOfBlocks(d, blocks);
}

template <class Load, size_t kHeads>
HWY_INLINE void ScoreBlock(const float* HWY_RESTRICT q, size_t q_stride, const uint8_t* const (&rows)[kKeyBlock],
                           size_t d, float* HWY_RESTRICT s, size_t s_stride, size_t count) {
    V sum[kHeads][kKeyBlock];
    ATLAS_UNROLL
    for (size_t h = 0; h < kHeads; ++h) {
        ATLAS_UNROLL
        for (size_t j = 0; j < kKeyBlock; ++j) sum[h][j] = hn::Zero(D());
    }
    const auto accumulate = [&](size_t i, const V(&k)[kKeyBlock][kVectors]) HWY_ATTR {
        ATLAS_UNROLL
        for (size_t x = 0; x < kVectors; ++x) {
            ATLAS_UNROLL
            for (size_t h = 0; h < kHeads; ++h) {
                const V query = hn::LoadU(D(), q + h * q_stride + i + x * kLanes);
                ATLAS_UNROLL
                for (size_t j = 0; j < kKeyBlock; ++j) sum[h][j] = hn::MulAdd(query, k[j][x], sum[h][j]);
            }
        }
    };
    size_t i = 0;
    V k[kKeyBlock][kVectors];
    for (; i + kChunk <= d; i += kChunk) {
        ATLAS_UNROLL
        for (size_t j = 0; j < kKeyBlock; ++j) Load::Chunk(rows[j], i, k[j]);
        accumulate(i, k);
    }
    if (i < d) {
        ATLAS_UNROLL
        for (size_t j = 0; j < kKeyBlock; ++j) Load::Tail(rows[j], i, d - i, k[j]);
        accumulate(i, k);
    }
    const hn::FixedTag<float, 4> d4;
    ATLAS_UNROLL
    for (size_t h = 0; h < kHeads; ++h) {
        const auto sums = SumOfFour(sum[h][0], sum[h][1], sum[h][2], sum[h][3]);
        if (count == kKeyBlock) {
            hn::StoreU(sums, d4, s + h * s_stride);
        } else {
            hn::StoreN(sums, d4, s + h * s_stride, count);
        }
    }
}

template <class Load>
void Score(const float* q, size_t q_stride, size_t heads, const RowSet& k, size_t count, size_t d, float* s,
           size_t s_stride, const std::byte* const* next) {
    const size_t row_bytes = atlas::row_bytes(Load::kType, static_cast<int64_t>(d));
    for (size_t j = 0; j < count; j += kKeyBlock) {
        const size_t n = HWY_MIN(kKeyBlock, count - j);
        const uint8_t* rows[kKeyBlock];
        ATLAS_UNROLL
        for (size_t x = 0; x < kKeyBlock; ++x) {
            rows[x] = RowAt(k.at, j + HWY_MIN(x, n - 1), k.shift);
            if (next) PrefetchRow(RowAt(next, j + x, k.shift), row_bytes);
        }
        size_t h = 0;
        for (; h + kHeadBlock <= heads; h += kHeadBlock) {
            ScoreBlock<Load, kHeadBlock>(q + h * q_stride, q_stride, rows, d, s + h * s_stride + j, s_stride, n);
        }
        if constexpr (kHeadBlock > 2) {
            for (; h + 2 <= heads; h += 2)
                ScoreBlock<Load, 2>(q + h * q_stride, q_stride, rows, d, s + h * s_stride + j, s_stride, n);
        }
        for (; h < heads; ++h)
            ScoreBlock<Load, 1>(q + h * q_stride, q_stride, rows, d, s + h * s_stride + j, s_stride, n);
    }
}

/** Rows one by one, or walked with a stride: the loop over them is so tight that a pointer to load for each shows (3–10 %). */
struct AnyRows {
    const std::byte* const* at;
    int64_t shift;
    HWY_INLINE const uint8_t* operator[](size_t j) const { return RowAt(at, j, shift); }
};
struct EvenRows {
    const uint8_t* first;
    size_t stride;
    HWY_INLINE const uint8_t* operator[](size_t j) const { return first + j * stride; }
};

/** One or two chunks of dimensions of kHeads results, over all keys of the call. */
template <class Load, size_t kHeads, size_t kChunks, class Rows>
HWY_INLINE void ValueBlock(const float* HWY_RESTRICT p, size_t p_stride, Rows rows, size_t count, size_t i, size_t tail,
                           float* HWY_RESTRICT o, size_t o_stride, const std::byte* const* next, int64_t next_shift,
                           size_t next_bytes) {
    V sum[kHeads][kChunks][kVectors];
    ATLAS_UNROLL
    for (size_t h = 0; h < kHeads; ++h) {
        ATLAS_UNROLL
        for (size_t c = 0; c < kChunks; ++c) {
            ATLAS_UNROLL
            for (size_t x = 0; x < kVectors; ++x)
                sum[h][c][x] = hn::LoadU(D(), o + h * o_stride + i + c * kChunk + x * kLanes);
        }
    }
    for (size_t j = 0; j < count; ++j) {
        const uint8_t* v = rows[j];
        if (next) PrefetchRow(RowAt(next, j, next_shift), next_bytes);
        ATLAS_UNROLL
        for (size_t c = 0; c < kChunks; ++c) {
            V value[kVectors];
            if (tail) {
                Load::Tail(v, i, tail, value);
            } else {
                Load::Chunk(v, i + c * kChunk, value);
            }
            ATLAS_UNROLL
            for (size_t h = 0; h < kHeads; ++h) {
                const V weight = hn::Set(D(), p[h * p_stride + j]);
                ATLAS_UNROLL
                for (size_t x = 0; x < kVectors; ++x) sum[h][c][x] = hn::MulAdd(weight, value[x], sum[h][c][x]);
            }
        }
    }
    ATLAS_UNROLL
    for (size_t h = 0; h < kHeads; ++h) {
        ATLAS_UNROLL
        for (size_t c = 0; c < kChunks; ++c) {
            ATLAS_UNROLL
            for (size_t x = 0; x < kVectors; ++x)
                hn::StoreU(sum[h][c][x], D(), o + h * o_stride + i + c * kChunk + x * kLanes);
        }
    }
}

template <class Load, size_t kHeads, class Rows>
HWY_INLINE void ValueHeads(const float* p, size_t p_stride, Rows v, size_t count, size_t d, float* o, size_t o_stride,
                           const std::byte* const* next, int64_t shift) {
    const size_t bytes = atlas::row_bytes(Load::kType, static_cast<int64_t>(d));
    // Two chunks at once fill the registers of AVX-512; elsewhere one chunk is four or eight vectors already.
    constexpr size_t kWide = kLanes >= 16 ? 2 : 1;
    size_t i = 0;
    for (; i + kWide * kChunk <= d; i += kWide * kChunk)
        ValueBlock<Load, kHeads, kWide>(p, p_stride, v, count, i, 0, o, o_stride, i == 0 ? next : nullptr, shift,
                                        bytes);
    for (; i + kChunk <= d; i += kChunk)
        ValueBlock<Load, kHeads, 1>(p, p_stride, v, count, i, 0, o, o_stride, i == 0 ? next : nullptr, shift, bytes);
    if (i < d)
        ValueBlock<Load, kHeads, 1>(p, p_stride, v, count, i, d - i, o, o_stride, i == 0 ? next : nullptr, shift,
                                    bytes);
}

template <class Load, class Rows>
HWY_INLINE void ValueRows(const float* p, size_t p_stride, size_t heads, Rows v, size_t count, size_t d, float* o,
                          size_t o_stride, const std::byte* const* next, int64_t shift) {
    size_t h = 0;
    for (; h + kHeadBlock <= heads; h += kHeadBlock) {
        ValueHeads<Load, kHeadBlock>(p + h * p_stride, p_stride, v, count, d, o + h * o_stride, o_stride,
                                     h == 0 ? next : nullptr, shift);
    }
    if constexpr (kHeadBlock > 2) {
        for (; h + 2 <= heads; h += 2) {
            ValueHeads<Load, 2>(p + h * p_stride, p_stride, v, count, d, o + h * o_stride, o_stride,
                                h == 0 ? next : nullptr, shift);
        }
    }
    for (; h < heads; ++h) {
        ValueHeads<Load, 1>(p + h * p_stride, p_stride, v, count, d, o + h * o_stride, o_stride,
                            h == 0 ? next : nullptr, shift);
    }
}

template <class Load>
void Value(const float* p, size_t p_stride, size_t heads, const RowSet& v, size_t count, size_t d, float* o,
           size_t o_stride, const std::byte* const* next) {
    if (v.stride != 0) {
        const EvenRows even{RowAt(v.at, 0, v.shift), static_cast<size_t>(v.stride)};
        ValueRows<Load>(p, p_stride, heads, even, count, d, o, o_stride, next, v.shift);
    } else {
        ValueRows<Load>(p, p_stride, heads, AnyRows{v.at, v.shift}, count, d, o, o_stride, next, v.shift);
    }
}

}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
