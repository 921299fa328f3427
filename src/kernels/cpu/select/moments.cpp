#include "kernels/moments.h"

#include <cmath>

#include "kernels/cpu/ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/select/moments.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// At most a panel's width, so that a row of a panel is a whole number of vectors.
using D = hn::CappedTag<float, kPanelBlocks>;
using V = hn::Vec<D>;

HWY_INLINE V LoadF32(D d, const float* from) { return hn::LoadU(d, from); }
template <typename T>
HWY_INLINE V LoadF32(D d, const T* from) {
    const hn::Rebind<int32_t, D> di;
    const hn::Rebind<T, D> dt;
    return hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(dt, from)));
}

template <typename T>
void WidenAll(const T* from, size_t n, float* to) {
    const D d;
    for (size_t i = 0; i < n; i += hn::Lanes(d)) hn::StoreU(LoadF32(d, from + i), d, to + i);
}

// Rows that share one pass over a panel, and partial sums per row that hide the latency of the additions: 8 registers in either case.
constexpr size_t kManyRows = 8;

template <size_t kRows, typename T>
HWY_INLINE void ProductRows(const T* m, const float* scale, const float* q, size_t d_k, float* out) {
    constexpr size_t kParts = kManyRows / kRows;
    const D d;
    for (size_t b = 0; b < kPanelBlocks; b += hn::Lanes(d)) {
        V sum[kManyRows];
        ATLAS_UNROLL
        for (size_t r = 0; r < kManyRows; ++r) sum[r] = hn::Zero(d);
        size_t i = 0;
        for (; i + kParts <= d_k; i += kParts) {
            ATLAS_UNROLL
            for (size_t part = 0; part < kParts; ++part) {
                const V factor = LoadF32(d, m + (i + part) * kPanelBlocks + b);
                ATLAS_UNROLL
                for (size_t r = 0; r < kRows; ++r)
                    sum[part * kRows + r] =
                        hn::MulAdd(hn::Set(d, q[r * d_k + i + part]), factor, sum[part * kRows + r]);
            }
        }
        for (; i < d_k; ++i) {
            const V factor = LoadF32(d, m + i * kPanelBlocks + b);
            ATLAS_UNROLL
            for (size_t r = 0; r < kRows; ++r) sum[r] = hn::MulAdd(hn::Set(d, q[r * d_k + i]), factor, sum[r]);
        }
        const V scales = hn::LoadU(d, scale + b);
        ATLAS_UNROLL
        for (size_t r = 0; r < kRows; ++r) {
            V total = sum[r];
            ATLAS_UNROLL
            for (size_t part = 1; part < kParts; ++part) total = hn::Add(total, sum[part * kRows + r]);
            hn::StoreU(hn::Mul(total, scales), d, out + r * kPanelBlocks + b);
        }
    }
}

template <typename T>
HWY_INLINE void ProductAll(const T* m, const float* scale, const float* q, size_t rows, size_t d_k, float* out) {
    size_t row = 0;
    for (; row + 8 <= rows; row += 8) ProductRows<8>(m, scale, q + row * d_k, d_k, out + row * kPanelBlocks);
    for (; row + 4 <= rows; row += 4) ProductRows<4>(m, scale, q + row * d_k, d_k, out + row * kPanelBlocks);
    for (; row + 2 <= rows; row += 2) ProductRows<2>(m, scale, q + row * d_k, d_k, out + row * kPanelBlocks);
    for (; row < rows; ++row) ProductRows<1>(m, scale, q + row * d_k, d_k, out + row * kPanelBlocks);
}

/** Few rows convert the factors as they go; many convert them once, into `panel`. */
template <typename T>
HWY_INLINE void Product(const T* m, const float* scale, const float* q, size_t rows, size_t d_k, float* panel,
                        float* out) {
    if (rows <= 2 * kManyRows) return ProductAll(m, scale, q, rows, d_k, out);
    WidenAll(m, d_k * kPanelBlocks, panel);
    ProductAll(panel, scale, q, rows, d_k, out);
}

void ProductSigned(const int8_t* m, const float* scale, const float* q, size_t rows, size_t d_k, float* panel,
                   float* out) {
    Product(m, scale, q, rows, d_k, panel, out);
}

void ProductUnsigned(const uint8_t* m, const float* scale, const float* q, size_t rows, size_t d_k, float* panel,
                     float* out) {
    Product(m, scale, q, rows, d_k, panel, out);
}

// ln I0(z) ≈ z²(1 + a1·z + a2·z²) / (4 + b1·z + b2·z² + b3·z³), least squares over 0.01…200.
constexpr float kA1 = 0.39568021f, kA2 = 0.10163111f, kB1 = 1.55397658f, kB2 = 0.68781984f, kB3 = 0.10215482f;

/** Adds to out[row][16] the sum over pairs; panel f32 [pairs][16] is scratch for the radii. */
void LogBesselSum(const float* q, size_t rows, const uint8_t* r, const float* scale, size_t pairs, float* panel,
                  float* out) {
    const D d;
    const V a1 = hn::Set(d, kA1), a2 = hn::Set(d, kA2), b1 = hn::Set(d, kB1), b2 = hn::Set(d, kB2),
            b3 = hn::Set(d, kB3);
    const V one = hn::Set(d, 1.0f), two = hn::Set(d, 2.0f), four = hn::Set(d, 4.0f);
    for (size_t b = 0; b < kPanelBlocks; b += hn::Lanes(d)) {
        const V scales = hn::LoadU(d, scale + b);
        for (size_t p = 0; p < pairs; ++p) {
            hn::StoreU(hn::Mul(LoadF32(d, r + p * kPanelBlocks + b), scales), d, panel + p * kPanelBlocks + b);
        }
        for (size_t row = 0; row < rows; ++row) {
            V sum = hn::LoadU(d, out + row * kPanelBlocks + b);
            for (size_t p = 0; p < pairs; ++p) {
                const V z = hn::Mul(hn::Set(d, q[row * pairs + p]), hn::LoadU(d, panel + p * kPanelBlocks + b));
                const V over = hn::MulAdd(hn::MulAdd(a2, z, a1), z, one);
                const V under = hn::MulAdd(hn::MulAdd(hn::MulAdd(b3, z, b2), z, b1), z, four);
                // A reciprocal of 8 to 14 bits and one Newton step: 16 bits or more, where the fit has 9.
                const V rough = hn::ApproximateReciprocal(under);
                const V inverse = hn::Mul(rough, hn::NegMulAdd(under, rough, two));
                sum = hn::MulAdd(hn::Mul(hn::Mul(z, z), over), inverse, sum);
            }
            hn::StoreU(sum, d, out + row * kPanelBlocks + b);
        }
    }
}

void ValueSum(const float* p, size_t rows, const int8_t* v, size_t d_v, float* o) {
    const hn::ScalableTag<float> d;
    using VS = hn::Vec<decltype(d)>;
    const hn::Rebind<int32_t, decltype(d)> di;
    const hn::Rebind<int8_t, decltype(d)> dt;
    const size_t lanes = hn::Lanes(d);
    const size_t whole = d_v / lanes * lanes;
    for (size_t i = 0; i < whole; i += lanes) {
        VS value[kPanelBlocks];
        ATLAS_UNROLL
        for (size_t b = 0; b < kPanelBlocks; ++b)
            value[b] = hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(dt, v + b * d_v + i)));
        for (size_t row = 0; row < rows; ++row) {
            const float* weight = p + row * kPanelBlocks;
            VS even = hn::LoadU(d, o + row * d_v + i);
            VS odd = hn::Zero(d);
            ATLAS_UNROLL
            for (size_t b = 0; b < kPanelBlocks; b += 2) {
                even = hn::MulAdd(hn::Set(d, weight[b]), value[b], even);
                odd = hn::MulAdd(hn::Set(d, weight[b + 1]), value[b + 1], odd);
            }
            hn::StoreU(hn::Add(even, odd), d, o + row * d_v + i);
        }
    }
    for (size_t row = 0; row < rows && whole < d_v; ++row) {
        for (size_t b = 0; b < kPanelBlocks; ++b) {
            const float weight = p[row * kPanelBlocks + b];
            for (size_t i = whole; i < d_v; ++i) o[row * d_v + i] += weight * static_cast<float>(v[b * d_v + i]);
        }
    }
}

void CellsOfLanes(const uint8_t* members, size_t pages, uint16_t lanes, uint64_t* cells) {
    const hn::FixedTag<uint8_t, 16> d;
    HWY_ALIGN uint8_t in_set[16];
    for (size_t lane = 0; lane < 16; ++lane) in_set[lane] = (lanes >> lane & 1) != 0 ? 0xFF : 0;
    const auto table = hn::Load(d, in_set);
    const auto low_half = hn::Set(d, uint8_t{15});
    const auto zero = hn::Zero(d);
    const auto bits = [&](hn::Vec<decltype(d)> lane) {
        return hn::BitsFromMask(d, hn::Ne(hn::TableLookupBytes(table, lane), zero));
    };
    for (size_t page = 0; page < pages; ++page, members += 32) {
        const auto a = hn::LoadU(d, members);
        const auto b = hn::LoadU(d, members + 16);
        cells[page] = bits(hn::And(a, low_half)) | bits(hn::And(b, low_half)) << 16 | bits(hn::ShiftRight<4>(a)) << 32 |
                      bits(hn::ShiftRight<4>(b)) << 48;
    }
}

}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels {
namespace cpu {
HWY_EXPORT(ProductSigned);
HWY_EXPORT(ProductUnsigned);
HWY_EXPORT(LogBesselSum);
HWY_EXPORT(ValueSum);
HWY_EXPORT(CellsOfLanes);
}  // namespace cpu

using namespace cpu;

void panel_product(const float* q, size_t rows, const int8_t* m, const float* scale, size_t d, float* panel,
                   float* out) {
    HWY_DYNAMIC_DISPATCH(ProductSigned)(m, scale, q, rows, d, panel, out);
}

void panel_product(const float* q, size_t rows, const uint8_t* m, const float* scale, size_t d, float* panel,
                   float* out) {
    HWY_DYNAMIC_DISPATCH(ProductUnsigned)(m, scale, q, rows, d, panel, out);
}

void panel_log_bessel(const float* q, size_t rows, const uint8_t* r, const float* scale, size_t pairs, float* panel,
                      float* out) {
    HWY_DYNAMIC_DISPATCH(LogBesselSum)(q, rows, r, scale, pairs, panel, out);
}

float log_bessel_i0(float z) {
    using cpu::HWY_NAMESPACE::kA1, cpu::HWY_NAMESPACE::kA2, cpu::HWY_NAMESPACE::kB1, cpu::HWY_NAMESPACE::kB2,
        cpu::HWY_NAMESPACE::kB3;
    return z * z * (1.0f + kA1 * z + kA2 * z * z) / (4.0f + kB1 * z + kB2 * z * z + kB3 * z * z * z);
}

void panel_value(const float* p, size_t rows, const int8_t* v, size_t d, float* o) {
    HWY_DYNAMIC_DISPATCH(ValueSum)(p, rows, v, d, o);
}

void cells_of_lanes(const uint8_t* members, size_t pages, uint16_t lanes, uint64_t* cells) {
    HWY_DYNAMIC_DISPATCH(CellsOfLanes)(members, pages, lanes, cells);
}

float exp_sum(float* values, size_t n, float shift) { return cpu_ops().exp_sum(values, n, shift); }
float max_of(const float* values, size_t n) { return cpu_ops().max(values, n); }

}  // namespace atlas::kernels
#endif
