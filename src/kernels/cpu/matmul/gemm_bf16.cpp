#include <algorithm>

#include "kernels/cpu/cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul/gemm_bf16.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// Two bf16 that are neighbours in k share an unsigned lane, the earlier one in its lower half.
using D = hn::ScalableTag<float>;
using DU = hn::RebindToUnsigned<D>;
using V = hn::Vec<D>;
using VU = hn::Vec<DU>;

inline constexpr size_t kMaxLanes = hn::MaxLanes(D());
inline constexpr size_t kRows = kMaxLanes >= 16 || HWY_TARGET == HWY_NEON ? 8 : 4;

/** To the nearest bf16, ties to even, in the upper half; NaN stays NaN. */
HWY_INLINE VU ToBf16(V x) {
    const DU du;
    const VU bits = hn::BitCast(du, x);
    const VU odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
    const VU rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFF)));
    const VU quiet = hn::Or(bits, hn::Set(du, 0x00400000));
    return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(x)), quiet, rounded);
}

HWY_INLINE VU Pair(V first, V second) {
    return hn::Or(hn::ShiftRight<16>(ToBf16(first)), hn::And(ToBf16(second), hn::Set(DU(), 0xFFFF0000u)));
}

/** sum + a₀b₀ + a₁b₁ of each lane's pair. */
HWY_INLINE V Dot(VU a, VU b, V sum) {
    const D d;
#if HWY_NATIVE_DOT_BF16
    const hn::Repartition<hwy::bfloat16_t, D> db;
    V none = hn::Zero(d);
    return hn::ReorderWidenMulAccumulate(d, hn::BitCast(db, a), hn::BitCast(db, b), sum, none);
#else
    const VU upper = hn::Set(DU(), 0xFFFF0000u);
    sum = hn::MulAdd(hn::BitCast(d, hn::ShiftLeft<16>(a)), hn::BitCast(d, hn::ShiftLeft<16>(b)), sum);
    return hn::MulAdd(hn::BitCast(d, hn::And(a, upper)), hn::BitCast(d, hn::And(b, upper)), sum);
#endif
}

/** pairs[i] of elements 2i and 2i+1 of a row of k, `stride` apart; a missing last one is 0. */
void PackRow(const float* HWY_RESTRICT row, size_t k, size_t stride, uint32_t* HWY_RESTRICT pairs) {
    const D d;
    const DU du;
    const size_t lanes = hn::Lanes(d);
    size_t i = 0;
    if (stride == 1) {
        const hn::Repartition<hwy::bfloat16_t, D> db;
        for (; 2 * (i + lanes) <= k; i += lanes) {
            const float* from = row + 2 * i;
            const auto both = hn::OrderedDemote2To(db, hn::LoadU(d, from), hn::LoadU(d, from + lanes));
            hn::StoreU(hn::BitCast(du, both), du, pairs + i);
        }
    }
    for (; 2 * i < k; ++i) {
        const V first = hn::Set(d, row[2 * i * stride]);
        const V second = hn::Set(d, 2 * i + 1 < k ? row[(2 * i + 1) * stride] : 0.0f);
        pairs[i] = hn::GetLane(Pair(first, second));
    }
}

/** panel[i][width] = pairs (2i, 2i+1) of n ≤ width columns of B, zero-padded. */
void PackPanel(size_t n, size_t k, MatrixView b, size_t width, uint32_t* HWY_RESTRICT panel) {
    const D d;
    const DU du;
    const size_t lanes = hn::Lanes(d);
    const size_t half = (k + 1) / 2;
    if (b.col_stride == 1) {
        for (size_t i = 0; i < half; ++i) {
            const float* first = b.data + 2 * i * b.row_stride;
            const bool last = 2 * i + 1 == k;
            for (size_t j = 0; j < width; j += lanes) {
                const size_t left = j < n ? n - j : 0;
                const V x = left >= lanes ? hn::LoadU(d, first + j) : hn::LoadN(d, first + j, left);
                const float* next = first + b.row_stride + j;
                const V y = last ? hn::Zero(d) : left >= lanes ? hn::LoadU(d, next) : hn::LoadN(d, next, left);
                hn::StoreU(Pair(x, y), du, panel + i * width + j);
            }
        }
        return;
    }
    for (size_t i = 0; i < half; ++i) {
        for (size_t j = 0; j < width; ++j) {
            const float* first = b.data + 2 * i * b.row_stride + j * b.col_stride;
            const V x = hn::Set(d, j < n ? *first : 0.0f);
            const V y = hn::Set(d, j < n && 2 * i + 1 < k ? first[b.row_stride] : 0.0f);
            panel[i * width + j] = hn::GetLane(Pair(x, y));
        }
    }
}

/** The same of columns that are packed already: panel[i][j] = columns[j][i]. Squares of 4 × 4 are turned in registers. */
void Turn(size_t n, size_t half, const uint32_t* HWY_RESTRICT columns, size_t width, uint32_t* HWY_RESTRICT panel) {
    const hn::FixedTag<uint32_t, 4> d4;
    const hn::RepartitionToWide<decltype(d4)> d2;
    size_t j = 0;
    for (; j + 4 <= n; j += 4) {
        const uint32_t* from = columns + j * half;
        size_t i = 0;
        for (; i + 4 <= half; i += 4) {
            const auto r0 = hn::LoadU(d4, from + i), r1 = hn::LoadU(d4, from + half + i);
            const auto r2 = hn::LoadU(d4, from + 2 * half + i), r3 = hn::LoadU(d4, from + 3 * half + i);
            const auto l01 = hn::BitCast(d2, hn::InterleaveLower(d4, r0, r1)),
                       u01 = hn::BitCast(d2, hn::InterleaveUpper(d4, r0, r1));
            const auto l23 = hn::BitCast(d2, hn::InterleaveLower(d4, r2, r3)),
                       u23 = hn::BitCast(d2, hn::InterleaveUpper(d4, r2, r3));
            uint32_t* to = panel + i * width + j;
            hn::StoreU(hn::BitCast(d4, hn::InterleaveLower(d2, l01, l23)), d4, to);
            hn::StoreU(hn::BitCast(d4, hn::InterleaveUpper(d2, l01, l23)), d4, to + width);
            hn::StoreU(hn::BitCast(d4, hn::InterleaveLower(d2, u01, u23)), d4, to + 2 * width);
            hn::StoreU(hn::BitCast(d4, hn::InterleaveUpper(d2, u01, u23)), d4, to + 3 * width);
        }
        for (; i < half; ++i) {
            for (size_t x = 0; x < 4; ++x) panel[i * width + j + x] = from[x * half + i];
        }
    }
    for (; j < width; ++j) {
        for (size_t i = 0; i < half; ++i) panel[i * width + j] = j < n ? columns[j * half + i] : 0;
    }
}

/** R rows by two vectors over `half` pairs of k. */
template <size_t R>
HWY_INLINE void Block(size_t n, size_t half, float alpha, const uint32_t* HWY_RESTRICT a,
                      const uint32_t* HWY_RESTRICT b, float beta, float* HWY_RESTRICT c, size_t c_stride) {
    const D d;
    const DU du;
    const size_t lanes = hn::Lanes(d);
    V sum[R][2];
    HWY_UNROLL(8)
    for (size_t r = 0; r < R; ++r) sum[r][0] = sum[r][1] = hn::Zero(d);
    for (size_t i = 0; i < half; ++i) {
        const VU b0 = hn::LoadU(du, b + 2 * lanes * i);
        const VU b1 = hn::LoadU(du, b + 2 * lanes * i + lanes);
        HWY_UNROLL(8)
        for (size_t r = 0; r < R; ++r) {
            const VU x = hn::Set(du, a[r * half + i]);
            sum[r][0] = Dot(x, b0, sum[r][0]);
            sum[r][1] = Dot(x, b1, sum[r][1]);
        }
    }
    const V scale = hn::Set(d, alpha);
    const V keep = hn::Set(d, beta);
    HWY_UNROLL(8)
    for (size_t r = 0; r < R; ++r) {
        HWY_UNROLL(2)
        for (size_t x = 0; x < 2; ++x) {
            if (x * lanes >= n) break;
            float* to = c + r * c_stride + x * lanes;
            const size_t left = std::min(lanes, n - x * lanes);
            V value = hn::Mul(sum[r][x], scale);
            if (beta != 0.0f) value = hn::MulAdd(keep, hn::LoadN(d, to, left), value);
            hn::StoreN(value, d, to, left);
        }
    }
}

template <size_t R>
void Rows(size_t rows, size_t n, size_t half, float alpha, const uint32_t* a, const uint32_t* b, float beta, float* c,
          size_t c_stride) {
    if (rows == R) {
        Block<R>(n, half, alpha, a, b, beta, c, c_stride);
    } else if constexpr (R > 1) {
        Rows<R - 1>(rows, n, half, alpha, a, b, beta, c, c_stride);
    }
}

void GemmBf16(const GemmArgs& args, std::vector<uint32_t>* work) {
    const auto [m, n, k, a, b, c, c_stride, alpha, beta] = args;
    const size_t width = 2 * hn::Lanes(D());
    const size_t half = (k + 1) / 2;
    // B as the transpose of rows is packed like A, row after row; where it is A's own transpose (a Gram matrix), it is packed already.
    const bool turned = b.row_stride == 1 && b.col_stride != 1;
    const bool same = turned && m == n && a.data == b.data && a.row_stride == b.col_stride && a.col_stride == 1;
    const size_t needed = half * (m + width + (turned && !same ? n : 0));
    if (work->size() < needed) work->resize(needed);
    uint32_t* panel = work->data();
    uint32_t* rows = panel + half * width;
    uint32_t* columns = same ? rows : rows + half * m;
    for (size_t i = 0; i < m; ++i) PackRow(a.data + i * a.row_stride, k, a.col_stride, rows + i * half);
    for (size_t j = 0; turned && !same && j < n; ++j)
        PackRow(b.data + j * b.col_stride, k, b.row_stride, columns + j * half);
    for (size_t j = 0; j < n; j += width) {
        const size_t count = std::min(width, n - j);
        if (turned) {
            Turn(count, half, columns + j * half, width, panel);
        } else {
            PackPanel(count, k, {b.data + j * b.col_stride, b.row_stride, b.col_stride}, width, panel);
        }
        for (size_t i = 0; i < m; i += kRows) {
            Rows<kRows>(std::min(kRows, m - i), count, half, alpha, rows + i * half, panel, beta, c + i * c_stride + j,
                        c_stride);
        }
    }
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {
HWY_EXPORT(GemmBf16);

void gemm_bf16(const GemmArgs& args, std::vector<uint32_t>* work) { HWY_DYNAMIC_DISPATCH(GemmBf16)(args, work); }

}  // namespace atlas::kernels::cpu
#endif
