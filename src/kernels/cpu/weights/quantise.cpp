#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vectors.h"
#include "kernels/e4m3.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/weights/quantise.cpp"
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
using D8 = hn::Rebind<int8_t, D>;

template <class T>
HWY_INLINE T* Plane(std::byte* column, size_t offset) {
    return reinterpret_cast<T*>(column + offset);
}

/** The largest |x| of n, a multiple of 16, as its bits: beyond those of infinity where one is NaN. */
HWY_INLINE uint32_t LargestBits(const float* x, size_t n) {
    const DU du;
    auto most = hn::Zero(du);
    const auto size = hn::Set(du, 0x7FFFFFFFu);
    for (size_t i = 0; i < n; i += hn::Lanes(du))
        most = hn::Max(most, hn::And(hn::BitCast(du, hn::LoadU(D(), x + i)), size));
    return hn::ReduceMax(du, most);
}

/** codes[i] = x[i] · factor to the nearest, at most 127; n a multiple of 16. Writes the sum of each 16. */
HWY_INLINE void Codes(const float* x, size_t n, float factor, int8_t* codes, int32_t* sums16) {
    const DI di;
    const V by = hn::Set(D(), factor);
    const auto most = hn::Set(di, 127);
    const size_t lanes = hn::Lanes(di);
    for (size_t i = 0; i < n; i += 16) {
        auto sum = hn::Zero(di);
        for (size_t j = 0; j < 16; j += lanes) {
            const auto code = hn::Min(hn::NearestInt(hn::Mul(hn::LoadU(D(), x + i + j), by)), most);
            sum = hn::Add(sum, code);
            hn::StoreU(hn::DemoteTo(D8(), code), D8(), codes + i + j);
        }
        sums16[i / 16] = hn::ReduceSum(di, sum);
    }
}

/** Rounds n numbers, a multiple of four, to f16. */
HWY_INLINE void RoundToHalf(float* x, size_t n) {
    const hn::FixedTag<float, 4> d4;
    const hn::FixedTag<hwy::float16_t, 4> half;
    for (size_t i = 0; i < n; i += 4)
        hn::StoreU(hn::PromoteTo(d4, hn::DemoteTo(half, hn::LoadU(d4, x + i))), d4, x + i);
}

/** Split order, and the sums of the codes that share a lane there. */
void Split(const ActivationLayout& at, size_t padded, std::byte* column) {
    const hn::FixedTag<int8_t, 16> d16;
    const hn::FixedTag<int16_t, 8> d8;
    const hn::FixedTag<int32_t, 4> d4;
    const auto* codes = Plane<const int8_t>(column, at.codes);
    auto* split = Plane<int8_t>(column, at.split_codes);
    auto* lanes = Plane<int32_t>(column, at.lane_sums);
    const auto ones8 = hn::Set(hn::FixedTag<uint8_t, 16>(), uint8_t{1});
    const auto ones16 = hn::Set(d8, int16_t{1});
    for (size_t i = 0; i < padded; i += 128, codes += 128, split += 128, lanes += 16) {
        for (size_t b = 0; b < 4; ++b) {
            const auto low = hn::LoadU(d16, codes + 32 * b);
            const auto high = hn::LoadU(d16, codes + 32 * b + 16);
            hn::StoreU(low, d16, split + 16 * b);
            hn::StoreU(high, d16, split + 64 + 16 * b);
            const auto pairs =
                hn::Add(hn::SatWidenMulPairwiseAdd(d8, ones8, low), hn::SatWidenMulPairwiseAdd(d8, ones8, high));
            hn::StoreU(hn::WidenMulPairwiseAdd(d4, pairs, ones16), d4, lanes + 4 * b);
        }
    }
}

/** Factors of blocks that are 0, or too small for a scale, are infinite: their codes are 0. */
HWY_INLINE float FiniteOr0(float factor) { return std::isfinite(factor) ? factor : 0.0f; }

/** Zeros of every plane of codes beyond k, and of the planes that go with them. */
void ClearTail(const ActivationLayout& at, size_t k, std::byte* column) {
    const size_t padded = (k + 511) / 512 * 512;
    if (padded == k) return;
    std::memset(column + at.codes + k, 0, padded - k);
    const bool large = at.short_sums != 0;
    const size_t unit = large ? 16 : 32;
    std::memset(column + at.sums + k / unit * 4, 0, (padded - k) / unit * 4);
    std::memset(column + at.scales + k / (large ? 256 : 32) * 4, 0, (padded - k) / (large ? 256 : 32) * 4);
    std::memset(column + (large ? at.short_sums + k / 16 * 2 : at.offsets + k / 32 * 4), 0, (padded - k) / 8);
}

/** Blocks of 32; k a multiple of it. */
void QuantiseQ8(const ActivationLayout& at, size_t k, const float* x, std::byte* column) {
    ClearTail(at, k, column);
    auto* scales = Plane<float>(column, at.scales);
    auto* sums = Plane<int32_t>(column, at.sums);
    auto* offsets = Plane<float>(column, at.offsets);
    auto* codes = Plane<int8_t>(column, at.codes);
    for (size_t b = 0; b < k / 32; ++b) {
        const uint32_t bits = LargestBits(x + 32 * b, 32);
        float most;
        std::memcpy(&most, &bits, sizeof most);
        const bool finite = bits < 0x7F800000u;
        int32_t halves[2] = {};
        if (finite) {
            Codes(x + 32 * b, 32, FiniteOr0(127.0f / most), codes + 32 * b, halves);
        } else {
            std::memset(codes + 32 * b, 0, 32);
        }
        scales[b] = finite ? most / 127.0f : std::numeric_limits<float>::quiet_NaN();
        sums[b] = halves[0] + halves[1];
        offsets[b] = scales[b] * static_cast<float>(sums[b]);
    }
    const size_t padded = (k + 511) / 512 * 512;
    RoundToHalf(scales, padded / 32);
    RoundToHalf(offsets, padded / 32);
    Split(at, padded, column);
}

/** Blocks of 256; k a multiple of it. The first element of largest size becomes −127. */
void QuantiseQ8K(const ActivationLayout& at, size_t k, const float* x, std::byte* column) {
    ClearTail(at, k, column);
    auto* scales = Plane<float>(column, at.scales);
    auto* sums = Plane<int32_t>(column, at.sums);
    auto* short_sums = Plane<int16_t>(column, at.short_sums);
    auto* parts = Plane<int8_t>(column, at.byte_sums);
    std::memset(parts + k / 8, 0, (k + 511) / 512 * 64 + 64 - k / 8);
    auto* codes = Plane<int8_t>(column, at.codes);
    for (size_t b = 0; b < k / 256; ++b, x += 256, codes += 256, sums += 16, short_sums += 16, parts += 32) {
        const uint32_t bits = LargestBits(x, 256);
        float most;
        std::memcpy(&most, &bits, sizeof most);
        const bool finite = bits < 0x7F800000u;
        if (!finite || FiniteOr0(127.0f / most) == 0.0f) {
            scales[b] = finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
            std::memset(codes, 0, 256);
            std::memset(sums, 0, 64);
            std::memset(short_sums, 0, 32);
            std::memset(parts, 0, 32);
            continue;
        }
        V low = hn::LoadU(D(), x), high = low;
        for (size_t i = 0; i < 256; i += hn::Lanes(D())) {
            low = hn::Min(low, hn::LoadU(D(), x + i));
            high = hn::Max(high, hn::LoadU(D(), x + i));
        }
        const float least = hn::ReduceMin(D(), low), greatest = hn::ReduceMax(D(), high);
        if (greatest == most && -least == most) {
            size_t i = 0;
            while (std::fabs(x[i]) != most) ++i;
            most = x[i];
        } else {
            most = greatest == most ? greatest : least;
        }
        const float factor = -127.0f / most;
        Codes(x, 256, factor, codes, sums);
        scales[b] = 1.0f / factor;
        for (size_t i = 0; i < 16; ++i) {
            short_sums[i] = static_cast<int16_t>(sums[i]);
            parts[i] = static_cast<int8_t>(sums[i] >> 6);
            parts[16 + i] = static_cast<int8_t>(sums[i] & 63);
        }
    }
    Split(at, (k + 511) / 512 * 512, column);
}

/** factor · x to the nearest bf16, ties to even; NaN stays NaN. What is left, where it is asked for. Zeros from k up to `padded`. */
HWY_INLINE void ToBf16(const float* x, size_t k, size_t padded, uint16_t* high, uint16_t* low, float factor = 1.0f) {
    const DU du;
    const hn::Rebind<uint16_t, D> d16;
    const size_t lanes = hn::Lanes(du);
    for (size_t i = 0; i < padded; i += lanes) {
        const V of = i + lanes <= k ? hn::LoadU(D(), x + i) : i < k ? hn::LoadN(D(), x + i, k - i) : hn::Zero(D());
        const V v = hn::Mul(of, hn::Set(D(), factor));
        const auto word = hn::BitCast(du, v);
        const auto odd = hn::And(hn::ShiftRight<16>(word), hn::Set(du, 1));
        const auto rounded = hn::Add(word, hn::Add(odd, hn::Set(du, 0x7FFF)));
        const auto quiet = hn::Or(word, hn::Set(du, 0x00400000));
        const auto kept = hn::ShiftRight<16>(hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), quiet, rounded));
        hn::StoreU(hn::TruncateTo(d16, kept), d16, high + i);
        if (low == nullptr) continue;
        const V rest = hn::IfThenElseZero(hn::IsFinite(v), hn::Sub(v, hn::BitCast(D(), hn::ShiftLeft<16>(kept))));
        hn::StoreU(hn::TruncateTo(d16, hn::ShiftRight<16>(hn::BitCast(du, rest))), d16, low + i);
    }
}

void QuantiseColumn(const ActivationArgs& args, const ActivationLayout& at, const float* x, std::byte* column) {
    const auto k = static_cast<size_t>(args.k);
    const size_t padded = (k + 63) / 64 * 64;
    switch (args.type) {
        case ActivationType::kQ8:
            return QuantiseQ8(at, k, x, column);
        case ActivationType::kQ8K:
            return QuantiseQ8K(at, k, x, column);
        case ActivationType::kF32:
        case ActivationType::kF16: {
            auto* values = Plane<float>(column, at.values);
            std::memcpy(values, x, k * sizeof(float));
            std::memset(values + k, 0, (padded - k) * sizeof(float));
            if (args.type == ActivationType::kF16) {
                RoundToHalf(values, padded);
                ToBf16(values, padded, padded, Plane<uint16_t>(column, at.high), Plane<uint16_t>(column, at.low));
            }
            return;
        }
        case ActivationType::kBF16:
            return ToBf16(x, k, padded, Plane<uint16_t>(column, at.values), nullptr);
        case ActivationType::kShiftedBF16:
            return ToBf16(x, k, padded, Plane<uint16_t>(column, at.values), nullptr,
                          std::ldexp(1.0f, kE4M3ActivationShift));
    }
}

void QuantiseActivations(const ActivationArgs& args, int64_t begin, int64_t end) {
    const ActivationLayout at(args.type, args.k);
    for (int64_t j = begin; j < end; ++j) {
        const auto* x = reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(args.x) +
                                                       static_cast<size_t>(j) * args.x_stride);
        QuantiseColumn(args, at, x, args.out + static_cast<size_t>(j) * at.bytes);
    }
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {
HWY_EXPORT(QuantiseActivations);
void quantise_activations(const ActivationArgs& args, int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(QuantiseActivations)(args, begin, end);
}
}  // namespace atlas::kernels::cpu
#endif
