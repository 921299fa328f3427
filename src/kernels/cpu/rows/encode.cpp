#include "kernels/cpu/cpu.h"
#include "kernels/reference/reference.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rows/encode.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include <cstring>

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;

constexpr int64_t kBlock = 32;

using VI = hn::Vec<hn::Rebind<uint32_t, D>>;

/** Rounded to nearest, ties to even, without AVX512-BF16's flush of subnormal numbers; NaN stays NaN. */
HWY_INLINE hn::Vec<hn::Rebind<uint16_t, D>> HalfBits(V x, DataType type) {
    const hn::Rebind<uint16_t, D> d16;
    if (type == DataType::kF16) return hn::BitCast(d16, hn::DemoteTo(hn::Rebind<hwy::float16_t, D>(), x));
    const hn::Rebind<uint32_t, D> d32;
    const VI bits = hn::BitCast(d32, x);
    const VI high = hn::ShiftRight<16>(bits);
    const VI odd = hn::And(high, hn::Set(d32, 1u));
    const VI rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7FFFu))));
    const VI nan = hn::Or(high, hn::Set(d32, 64u));
    return hn::TruncateTo(d16, hn::IfThenElse(hn::RebindMask(d32, hn::IsNaN(x)), nan, rounded));
}

void EncodeHalf(DataType type, const float* src, void* dst, int64_t n) {
    const D d;
    const hn::Rebind<uint16_t, D> d16;
    auto* to = static_cast<uint16_t*>(dst);
    const auto lanes = static_cast<int64_t>(hn::Lanes(d));
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) hn::StoreU(HalfBits(hn::LoadU(d, src + i), type), d16, to + i);
    if (i < n) {
        const auto rest = static_cast<size_t>(n - i);
        hn::StoreN(HalfBits(hn::LoadN(d, src + i, rest), type), d16, to + i, rest);
    }
}

/** Halves away from zero, as the C library's round. */
HWY_INLINE V RoundAway(V x) {
    const D d;
    const V whole = hn::Trunc(x);
    const V up = hn::IfThenElseZero(hn::Ge(hn::Abs(hn::Sub(x, whole)), hn::Set(d, 0.5f)), hn::Set(d, 1.0f));
    return hn::Add(whole, hn::CopySign(up, x));
}

void EncodeQ8_0(const float* src, void* dst, int64_t n) {
    const D d;
    const hn::Rebind<int32_t, D> d32;
    const hn::Rebind<int8_t, D> d8;
    const auto lanes = static_cast<int64_t>(hn::Lanes(d));
    auto* block = static_cast<uint8_t*>(dst);
    for (int64_t b = 0; b < n; b += kBlock, block += 34) {
        V most = hn::Zero(d);
        // A comparison with NaN is false: like the plain encoder, NaN does not become the scale.
        for (int64_t i = 0; i < kBlock; i += lanes) {
            const V x = hn::Abs(hn::LoadU(d, src + b + i));
            most = hn::IfThenElse(hn::Lt(most, x), x, most);
        }
        const float scale = hn::ReduceMax(d, most) / 127.0f;
        const V inverse = hn::Set(d, scale != 0.0f ? 1.0f / scale : 0.0f);
        const uint16_t bits = f32_to_f16(scale);
        std::memcpy(block, &bits, sizeof bits);
        for (int64_t i = 0; i < kBlock; i += lanes) {
            const V quant = RoundAway(hn::Mul(hn::LoadU(d, src + b + i), inverse));
            hn::StoreU(hn::DemoteTo(d8, hn::ConvertTo(d32, quant)), d8, reinterpret_cast<int8_t*>(block + 2 + i));
        }
    }
}

void EncodeRow(DataType type, const float* src, void* dst, int64_t n) {
    switch (type) {
        case DataType::kF16:
        case DataType::kBF16:
            return EncodeHalf(type, src, dst, n);
        case DataType::kQ8_0:
            return EncodeQ8_0(src, dst, n);
        default:
            return reference::row_encoder(type)(src, dst, n);
    }
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {

HWY_EXPORT(EncodeRow);

void encode_row(DataType type, const float* src, void* dst, int64_t n) {
    HWY_DYNAMIC_DISPATCH(EncodeRow)(type, src, dst, n);
}

}  // namespace atlas::kernels::cpu
#endif
