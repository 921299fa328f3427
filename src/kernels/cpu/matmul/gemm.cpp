#include <algorithm>

#include "kernels/cpu/cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul/gemm.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

inline constexpr size_t kMaxLanes = hn::MaxLanes(D());
// Rows of a register block: 2·kRows accumulators, two vectors of B and a broadcast of A fit the registers.
inline constexpr size_t kRows = kMaxLanes >= 16 || HWY_TARGET == HWY_NEON ? 8 : 6;
inline constexpr size_t kPanelRows = 256;  // a packed panel of B: 256 · 32 · 4 bytes fit L1

/** R rows by two vectors: C = alpha·A·B + beta·C over k. `b` rows b_stride apart; n columns are stored. */
template <size_t R>
HWY_INLINE void Block(size_t n, size_t k, float alpha, MatrixView a, const float* HWY_RESTRICT b, size_t b_stride,
                      float beta, float* HWY_RESTRICT c, size_t c_stride) {
    const D d;
    const size_t lanes = hn::Lanes(d);
    V sum[R][2];
    // Unrolled on demand: GCC at -O2 would keep the accumulators in memory (measured: a third of the speed).
    HWY_UNROLL(8)
    for (size_t r = 0; r < R; ++r) sum[r][0] = sum[r][1] = hn::Zero(d);
    const float* from = a.data;
    for (size_t i = 0; i < k; ++i, b += b_stride, from += a.col_stride) {
        const V b0 = hn::LoadU(d, b);
        const V b1 = hn::LoadU(d, b + lanes);
        HWY_UNROLL(8)
        for (size_t r = 0; r < R; ++r) {
            const V x = hn::Set(d, from[r * a.row_stride]);
            sum[r][0] = hn::MulAdd(x, b0, sum[r][0]);
            sum[r][1] = hn::MulAdd(x, b1, sum[r][1]);
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
            const size_t left = n - x * lanes;
            V value = hn::Mul(sum[r][x], scale);
            if (left >= lanes) {
                if (beta != 0.0f) value = hn::MulAdd(keep, hn::LoadU(d, to), value);
                hn::StoreU(value, d, to);
            } else {
                if (beta != 0.0f) value = hn::MulAdd(keep, hn::LoadN(d, to, left), value);
                hn::StoreN(value, d, to, left);
            }
        }
    }
}

template <size_t R>
void Rows(size_t rows, size_t n, size_t k, float alpha, MatrixView a, const float* b, size_t b_stride, float beta,
          float* c, size_t c_stride) {
    if (rows == R) {
        Block<R>(n, k, alpha, a, b, b_stride, beta, c, c_stride);
    } else if constexpr (R > 1) {
        Rows<R - 1>(rows, n, k, alpha, a, b, b_stride, beta, c, c_stride);
    }
}

/** panel[i][width] = B[i][0…n), zero-padded. */
void Pack(size_t n, size_t k, MatrixView b, size_t width, float* HWY_RESTRICT panel) {
    const D d;
    if (b.col_stride == 1 && n == width) {
        const size_t lanes = hn::Lanes(d);
        for (size_t i = 0; i < k; ++i) {
            hn::Store(hn::LoadU(d, b.data + i * b.row_stride), d, panel + i * width);
            hn::Store(hn::LoadU(d, b.data + i * b.row_stride + lanes), d, panel + i * width + lanes);
        }
        return;
    }
    if (b.col_stride == 1 || b.row_stride != 1) {
        for (size_t i = 0; i < k; ++i) {
            for (size_t j = 0; j < width; ++j)
                panel[i * width + j] = j < n ? b.data[i * b.row_stride + j * b.col_stride] : 0.0f;
        }
        return;
    }
    // B is the transpose of contiguous rows: squares of 4 × 4 are turned in registers.
    const hn::FixedTag<float, 4> d4;
    const hn::RepartitionToWide<decltype(d4)> d2;
    size_t j = 0;
    for (; j + 4 <= n; j += 4) {
        const float* rows = b.data + j * b.col_stride;
        size_t i = 0;
        for (; i + 4 <= k; i += 4) {
            const auto r0 = hn::LoadU(d4, rows + i), r1 = hn::LoadU(d4, rows + b.col_stride + i);
            const auto r2 = hn::LoadU(d4, rows + 2 * b.col_stride + i), r3 = hn::LoadU(d4, rows + 3 * b.col_stride + i);
            const auto l01 = hn::BitCast(d2, hn::InterleaveLower(d4, r0, r1)),
                       u01 = hn::BitCast(d2, hn::InterleaveUpper(d4, r0, r1));
            const auto l23 = hn::BitCast(d2, hn::InterleaveLower(d4, r2, r3)),
                       u23 = hn::BitCast(d2, hn::InterleaveUpper(d4, r2, r3));
            float* to = panel + i * width + j;
            hn::StoreU(hn::BitCast(d4, hn::InterleaveLower(d2, l01, l23)), d4, to);
            hn::StoreU(hn::BitCast(d4, hn::InterleaveUpper(d2, l01, l23)), d4, to + width);
            hn::StoreU(hn::BitCast(d4, hn::InterleaveLower(d2, u01, u23)), d4, to + 2 * width);
            hn::StoreU(hn::BitCast(d4, hn::InterleaveUpper(d2, u01, u23)), d4, to + 3 * width);
        }
        for (; i < k; ++i) {
            for (size_t x = 0; x < 4; ++x) panel[i * width + j + x] = rows[x * b.col_stride + i];
        }
    }
    for (; j < width; ++j) {
        for (size_t i = 0; i < k; ++i) panel[i * width + j] = j < n ? b.data[j * b.col_stride + i] : 0.0f;
    }
}

/**
 * Few rows against the transpose of contiguous rows: dot products, four at a time, since packing B would cost more than using it. A function of its
 * own: inlined into Gemm, gcc makes it a fifth slower (one row against 128 × 128).
 */
HWY_NOINLINE void Dots(size_t m, size_t n, size_t k, float alpha, MatrixView a, MatrixView b, float beta, float* c,
                       size_t c_stride) {
    const D d;
    const size_t lanes = hn::Lanes(d);
    const size_t whole = k / lanes * lanes;
    for (size_t row = 0; row < m; ++row) {
        const float* x = a.data + row * a.row_stride;
        for (size_t j = 0; j < n; j += 4) {
            const size_t count = std::min<size_t>(4, n - j);
            const float* w[4];
            for (size_t r = 0; r < 4; ++r) w[r] = b.data + (j + std::min(r, count - 1)) * b.col_stride;
            V sum[4];
            HWY_UNROLL(4)
            for (size_t r = 0; r < 4; ++r) sum[r] = hn::Zero(d);
            for (size_t i = 0; i < whole; i += lanes) {
                const V value = hn::LoadU(d, x + i);
                HWY_UNROLL(4)
                for (size_t r = 0; r < 4; ++r) sum[r] = hn::MulAdd(value, hn::LoadU(d, w[r] + i), sum[r]);
            }
            if (whole < k) {
                const V value = hn::LoadN(d, x + whole, k - whole);
                HWY_UNROLL(4)
                for (size_t r = 0; r < 4; ++r)
                    sum[r] = hn::MulAdd(value, hn::LoadN(d, w[r] + whole, k - whole), sum[r]);
            }
            HWY_UNROLL(4)
            for (size_t r = 0; r < 4; ++r) {
                if (r >= count) break;
                float& to = c[row * c_stride + j + r];
                to = alpha * hn::ReduceSum(d, sum[r]) + (beta == 0.0f ? 0.0f : beta * to);
            }
        }
    }
}

void Gemm(const GemmArgs& args) {
    const auto [m, n, k, a, b, c, c_stride, alpha, beta] = args;
    if (m <= 4 && b.row_stride == 1 && b.col_stride != 1 && a.col_stride == 1) {
        Dots(m, n, k, alpha, a, b, beta, c, c_stride);
        return;
    }
    const size_t width = 2 * hn::Lanes(D());
    HWY_ALIGN float packed[kPanelRows * 2 * kMaxLanes];
    for (size_t i = 0; i < k; i += kPanelRows) {
        const size_t depth = std::min(kPanelRows, k - i);
        for (size_t j = 0; j < n; j += width) {
            const size_t columns = std::min(width, n - j);
            const float* panel = b.data + i * b.row_stride + j * b.col_stride;
            size_t stride = b.row_stride;
            // Packed even where the rows are contiguous: aligned, and free of the cache conflicts of strides that are powers of two.
            if (b.col_stride != 1 || columns < width || m > kRows) {
                Pack(columns, depth, {panel, b.row_stride, b.col_stride}, width, packed);
                panel = packed;
                stride = width;
            }
            for (size_t row = 0; row < m; row += kRows) {
                Rows<kRows>(std::min(kRows, m - row), columns, depth, alpha,
                            {a.data + row * a.row_stride + i * a.col_stride, a.row_stride, a.col_stride}, panel, stride,
                            i == 0 ? beta : 1.0f, c + row * c_stride + j, c_stride);
            }
        }
    }
    if (k == 0) {
        for (size_t row = 0; row < m; ++row) {
            for (size_t j = 0; j < n; ++j) c[row * c_stride + j] = beta == 0.0f ? 0.0f : beta * c[row * c_stride + j];
        }
    }
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {
HWY_EXPORT(Gemm);

void gemm(const GemmArgs& args) { HWY_DYNAMIC_DISPATCH(Gemm)(args); }

}  // namespace atlas::kernels::cpu
#endif
