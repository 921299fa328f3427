#include "kernels/moments.h"

#include <cmath>
#include <limits>

#include "kernels/cpu/ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/moments.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

template <typename T>
HWY_INLINE V Widen(D d, const T* from) {
    const hn::Rebind<int32_t, D> di;
    const hn::Rebind<T, D> dt;
    return hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(dt, from)));
}

template <typename T>
void WidenAll(const T* from, size_t n, float* to) {
    const D d;
    for (size_t i = 0; i < n; i += hn::Lanes(d)) hn::StoreU(Widen(d, from + i), d, to + i);
}

void WidenSigned(const int8_t* from, size_t n, float* to) { WidenAll(from, n, to); }
void WidenUnsigned(const uint8_t* from, size_t n, float* to) { WidenAll(from, n, to); }

/** out[row][64] = Σ_i q[row·d + i] · m[i][64]: four rows by two vectors of blocks in registers. */
void Product(const float* m, const float* q, size_t rows, size_t d_k, float* out) {
    const D d;
    const size_t lanes = hn::Lanes(d);
    for (size_t b = 0; b < kPanelBlocks; b += 2 * lanes) {
        size_t row = 0;
        for (; row + 4 <= rows; row += 4) {
            const float* q0 = q + row * d_k;
            V s00 = hn::Zero(d), s01 = s00, s10 = s00, s11 = s00, s20 = s00, s21 = s00, s30 = s00, s31 = s00;
            for (size_t i = 0; i < d_k; ++i) {
                const V m0 = hn::LoadU(d, m + i * kPanelBlocks + b);
                const V m1 = hn::LoadU(d, m + i * kPanelBlocks + b + lanes);
                const V a0 = hn::Set(d, q0[i]), a1 = hn::Set(d, q0[d_k + i]), a2 = hn::Set(d, q0[2 * d_k + i]),
                        a3 = hn::Set(d, q0[3 * d_k + i]);
                s00 = hn::MulAdd(a0, m0, s00), s01 = hn::MulAdd(a0, m1, s01);
                s10 = hn::MulAdd(a1, m0, s10), s11 = hn::MulAdd(a1, m1, s11);
                s20 = hn::MulAdd(a2, m0, s20), s21 = hn::MulAdd(a2, m1, s21);
                s30 = hn::MulAdd(a3, m0, s30), s31 = hn::MulAdd(a3, m1, s31);
            }
            float* to = out + row * kPanelBlocks + b;
            hn::StoreU(s00, d, to), hn::StoreU(s01, d, to + lanes);
            hn::StoreU(s10, d, to + kPanelBlocks), hn::StoreU(s11, d, to + kPanelBlocks + lanes);
            hn::StoreU(s20, d, to + 2 * kPanelBlocks), hn::StoreU(s21, d, to + 2 * kPanelBlocks + lanes);
            hn::StoreU(s30, d, to + 3 * kPanelBlocks), hn::StoreU(s31, d, to + 3 * kPanelBlocks + lanes);
        }
        for (; row < rows; ++row) {
            V s0 = hn::Zero(d), s1 = s0;
            for (size_t i = 0; i < d_k; ++i) {
                const V a = hn::Set(d, q[row * d_k + i]);
                s0 = hn::MulAdd(a, hn::LoadU(d, m + i * kPanelBlocks + b), s0);
                s1 = hn::MulAdd(a, hn::LoadU(d, m + i * kPanelBlocks + b + lanes), s1);
            }
            hn::StoreU(s0, d, out + row * kPanelBlocks + b), hn::StoreU(s1, d, out + row * kPanelBlocks + b + lanes);
        }
    }
}

void ScaleLanes(const float* scale, size_t rows, float* out) {
    const D d;
    for (size_t row = 0; row < rows; ++row) {
        for (size_t b = 0; b < kPanelBlocks; b += hn::Lanes(d)) {
            hn::StoreU(hn::Mul(hn::LoadU(d, out + row * kPanelBlocks + b), hn::LoadU(d, scale + b)), d,
                       out + row * kPanelBlocks + b);
        }
    }
}

// ln I0(z) ≈ z²(1 + a1·z + a2·z²) / (4 + b1·z + b2·z² + b3·z³), least squares over 0.01…200.
constexpr float kA1 = 0.39568021f, kA2 = 0.10163111f, kB1 = 1.55397658f, kB2 = 0.68781984f, kB3 = 0.10215482f;

/** r f32 [pairs][64], scaled; only groups of 16 lanes whose bit is set. */
void LogBesselSum(const float* q, size_t rows, const float* r, size_t pairs, unsigned groups, float* out) {
    const hn::CappedTag<float, 16> d;
    using VG = hn::Vec<decltype(d)>;
    const VG a1 = hn::Set(d, kA1), a2 = hn::Set(d, kA2), b1 = hn::Set(d, kB1), b2 = hn::Set(d, kB2),
             b3 = hn::Set(d, kB3);
    const VG one = hn::Set(d, 1.0f), four = hn::Set(d, 4.0f);
    for (size_t b = 0; b < kPanelBlocks; b += hn::Lanes(d)) {
        if (!(groups >> (b / 16) & 1u)) continue;
        for (size_t row = 0; row < rows; ++row) {
            VG sum = hn::LoadU(d, out + row * kPanelBlocks + b);
            for (size_t p = 0; p < pairs; ++p) {
                const VG z = hn::Mul(hn::Set(d, q[row * pairs + p]), hn::LoadU(d, r + p * kPanelBlocks + b));
                const VG over = hn::MulAdd(hn::MulAdd(a2, z, a1), z, one);
                const VG under = hn::MulAdd(hn::MulAdd(hn::MulAdd(b3, z, b2), z, b1), z, four);
                sum = hn::Add(sum, hn::Div(hn::Mul(hn::Mul(z, z), over), under));
            }
            hn::StoreU(sum, d, out + row * kPanelBlocks + b);
        }
    }
}

void ValueSum(const float* p, size_t rows, const int8_t* v, size_t count, size_t d_v, float* o) {
    const D d;
    const size_t lanes = hn::Lanes(d);
    const size_t whole = d_v / lanes * lanes;
    for (size_t i = 0; i < whole; i += lanes) {
        for (size_t row = 0; row < rows; row += 4) {
            const size_t n = rows - row < 4 ? rows - row : 4;
            V sum[4];
            for (size_t r = 0; r < 4; ++r) sum[r] = r < n ? hn::LoadU(d, o + (row + r) * d_v + i) : hn::Zero(d);
            for (size_t b = 0; b < count; ++b) {
                const V value = Widen(d, v + b * d_v + i);
                for (size_t r = 0; r < n; ++r)
                    sum[r] = hn::MulAdd(hn::Set(d, p[(row + r) * kPanelBlocks + b]), value, sum[r]);
            }
            for (size_t r = 0; r < n; ++r) hn::StoreU(sum[r], d, o + (row + r) * d_v + i);
        }
    }
    for (size_t row = 0; row < rows && whole < d_v; ++row) {
        for (size_t b = 0; b < count; ++b) {
            const float weight = p[row * kPanelBlocks + b];
            for (size_t i = whole; i < d_v; ++i) o[row * d_v + i] += weight * static_cast<float>(v[b * d_v + i]);
        }
    }
}

}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels {
namespace cpu {
HWY_EXPORT(WidenSigned);
HWY_EXPORT(WidenUnsigned);
HWY_EXPORT(Product);
HWY_EXPORT(ScaleLanes);
HWY_EXPORT(LogBesselSum);
HWY_EXPORT(ValueSum);
}  // namespace cpu

using namespace cpu;

void panel_product(const float* q, size_t rows, const int8_t* m, const float* scale, size_t d, float* panel,
                   float* out) {
    HWY_DYNAMIC_DISPATCH(WidenSigned)(m, d * kPanelBlocks, panel);
    HWY_DYNAMIC_DISPATCH(Product)(panel, q, rows, d, out);
    HWY_DYNAMIC_DISPATCH(ScaleLanes)(scale, rows, out);
}

void panel_product(const float* q, size_t rows, const uint8_t* m, const float* scale, size_t d, float* panel,
                   float* out) {
    HWY_DYNAMIC_DISPATCH(WidenUnsigned)(m, d * kPanelBlocks, panel);
    HWY_DYNAMIC_DISPATCH(Product)(panel, q, rows, d, out);
    HWY_DYNAMIC_DISPATCH(ScaleLanes)(scale, rows, out);
}

void panel_log_bessel(const float* q, size_t rows, const uint8_t* r, const float* scale, size_t pairs, unsigned groups,
                      float* panel, float* out) {
    HWY_DYNAMIC_DISPATCH(WidenUnsigned)(r, pairs * kPanelBlocks, panel);
    HWY_DYNAMIC_DISPATCH(ScaleLanes)(scale, pairs, panel);
    HWY_DYNAMIC_DISPATCH(LogBesselSum)(q, rows, panel, pairs, groups, out);
}

float log_bessel_i0(float z) {
    using cpu::HWY_NAMESPACE::kA1, cpu::HWY_NAMESPACE::kA2, cpu::HWY_NAMESPACE::kB1, cpu::HWY_NAMESPACE::kB2,
        cpu::HWY_NAMESPACE::kB3;
    return z * z * (1.0f + kA1 * z + kA2 * z * z) / (4.0f + kB1 * z + kB2 * z * z + kB3 * z * z * z);
}

void panel_value(const float* p, size_t rows, const int8_t* v, size_t count, size_t d, float* o) {
    HWY_DYNAMIC_DISPATCH(ValueSum)(p, rows, v, count, d, o);
}

float exp_sum(float* values, size_t n, float shift) { return cpu_ops().exp_sum(values, n, shift); }
float max_of(const float* values, size_t n) { return cpu_ops().max(values, n); }

}  // namespace atlas::kernels
#endif
