// Per-target include: row loaders, from any KV type to f32 vectors.
#if defined(ATLAS_KERNELS_LOAD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATLAS_KERNELS_LOAD_INL_H_
#undef ATLAS_KERNELS_LOAD_INL_H_
#else
#define ATLAS_KERNELS_LOAD_INL_H_
#endif

#include <hwy/highway.h>

#include <cstring>

#include "base/data_type.h"
#include "kernels/cpu/vectors.h"
#include "kernels/levels.h"

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// At most 512 bits: a chunk of 32 elements is then two or more vectors on every target.
using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;
inline constexpr size_t kLanes = HWY_MIN(HWY_MAX_BYTES / sizeof(float), size_t{16});
inline constexpr size_t kVectors = kChunk / kLanes;  // per chunk

HWY_INLINE float LoadHalf(const uint8_t* from) {
    uint16_t bits;
    std::memcpy(&bits, from, sizeof bits);
    return hwy::F32FromF16(hwy::float16_t::FromBits(bits));
}

/** Loads 32 elements as f32; Tail loads the first n < 32 of them and zeros (only types without blocks). */
struct LoadF32 {
    static constexpr DataType kType = DataType::kF32;
    static HWY_INLINE void Chunk(const uint8_t* row, size_t i, V (&v)[kVectors]) {
        const float* from = reinterpret_cast<const float*>(row) + i;
        ATLAS_UNROLL
        for (size_t k = 0; k < kVectors; ++k) v[k] = hn::LoadU(D(), from + k * kLanes);
    }
    static HWY_INLINE void Tail(const uint8_t* row, size_t i, size_t n, V (&v)[kVectors]) {
        const float* from = reinterpret_cast<const float*>(row) + i;
        ATLAS_UNROLL
        for (size_t k = 0; k < kVectors; ++k) {
            v[k] = k * kLanes < n ? hn::LoadN(D(), from + k * kLanes, n - k * kLanes) : hn::Zero(D());
        }
    }
};

template <typename T, DataType type>
struct LoadHalfType {
    static constexpr DataType kType = type;
    using DH = hn::Rebind<T, D>;
    static HWY_INLINE void Chunk(const uint8_t* row, size_t i, V (&v)[kVectors]) {
        const T* from = reinterpret_cast<const T*>(row) + i;
        ATLAS_UNROLL
        for (size_t k = 0; k < kVectors; ++k) v[k] = hn::PromoteTo(D(), hn::LoadU(DH(), from + k * kLanes));
    }
    static HWY_INLINE void Tail(const uint8_t* row, size_t i, size_t n, V (&v)[kVectors]) {
        T padded[kChunk] = {};
        std::memcpy(padded, reinterpret_cast<const T*>(row) + i, n * sizeof(T));
        Chunk(reinterpret_cast<const uint8_t*>(padded), 0, v);
    }
};
using LoadF16 = LoadHalfType<hwy::float16_t, DataType::kF16>;
using LoadBF16 = LoadHalfType<hwy::bfloat16_t, DataType::kBF16>;

/** Types in blocks of 32 have no tails. */
struct NoTail {
    static HWY_INLINE void Tail(const uint8_t*, size_t, size_t, V (&)[kVectors]) {}
};

struct LoadQ8_0 : NoTail {
    static constexpr DataType kType = DataType::kQ8_0;
    static HWY_INLINE void Chunk(const uint8_t* row, size_t i, V (&v)[kVectors]) {
        const uint8_t* block = row + i / 32 * 34;
        const V scale = hn::Set(D(), LoadHalf(block));
        const auto* quants = reinterpret_cast<const int8_t*>(block + 2);
        const hn::Rebind<int8_t, D> d8;
        const hn::Rebind<int32_t, D> d32;
        ATLAS_UNROLL
        for (size_t k = 0; k < kVectors; ++k) {
            v[k] = hn::Mul(scale, hn::ConvertTo(D(), hn::PromoteTo(d32, hn::LoadU(d8, quants + k * kLanes))));
        }
    }
};

using DB = hn::FixedTag<uint8_t, 16>;
using DI = hn::FixedTag<int8_t, 16>;
using VB = hn::Vec<DB>;

/** The fifth bits of 16 elements, moved to bit 4 of 16 bytes; `bits` holds element j's in its bit j. */
HWY_INLINE VB FifthBits(uint32_t bits) {
    HWY_ALIGN static constexpr uint8_t kByte[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
    HWY_ALIGN static constexpr uint8_t kBit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const DB db;
    const VB spread =
        hn::TableLookupBytes(hn::BitCast(db, hn::Set(hn::FixedTag<uint32_t, 4>(), bits)), hn::Load(db, kByte));
    return hn::IfThenElseZero(hn::TestBit(spread, hn::Load(db, kBit)), hn::Set(db, uint8_t{16}));
}

/** 32 signed bytes to f32 vectors, times scale, plus offset when HasOffset. */
template <bool HasOffset>
HWY_INLINE void Widen(hn::Vec<DI> low, hn::Vec<DI> high, V scale, V offset, V (&v)[kVectors]) {
    HWY_ALIGN int8_t bytes[kChunk];
    const hn::Rebind<int8_t, D> d8;
    const hn::Rebind<int32_t, D> d32;
    hn::Store(low, DI(), bytes);
    hn::Store(high, DI(), bytes + 16);
    ATLAS_UNROLL
    for (size_t k = 0; k < kVectors; ++k) {
        const V value = hn::ConvertTo(D(), hn::PromoteTo(d32, hn::LoadU(d8, bytes + k * kLanes)));
        v[k] = HasOffset ? hn::MulAdd(value, scale, offset) : hn::Mul(value, scale);
    }
}

/**
 * Types with 4 bits in the last 16 bytes of a block: low nibbles are elements 0–15, high nibbles 16–31. kBias is subtracted,
 * kFifth says that a u32 of fifth bits stands before the nibbles, kMin that an f16 minimum follows the scale.
 */
template <DataType type, size_t kBytes, int kBias, bool kFifth, bool kMin>
struct LoadNibbles : NoTail {
    static constexpr DataType kType = type;
    static HWY_INLINE void Chunk(const uint8_t* row, size_t i, V (&v)[kVectors]) {
        const uint8_t* block = row + i / 32 * kBytes;
        const DB db;
        const VB both = hn::LoadU(db, block + kBytes - 16);
        VB low = hn::And(both, hn::Set(db, uint8_t{15}));
        VB high = hn::ShiftRight<4>(both);
        if constexpr (kFifth) {
            uint32_t bits;
            std::memcpy(&bits, block + kBytes - 20, sizeof bits);
            low = hn::Or(low, FifthBits(bits));
            high = hn::Or(high, FifthBits(bits >> 16));
        }
        const hn::Vec<DI> bias = hn::Set(DI(), static_cast<int8_t>(kBias));
        const V offset = kMin ? hn::Set(D(), LoadHalf(block + 2)) : hn::Zero(D());
        Widen<kMin>(hn::Sub(hn::BitCast(DI(), low), bias), hn::Sub(hn::BitCast(DI(), high), bias),
                    hn::Set(D(), LoadHalf(block)), offset, v);
    }
};
using LoadQ4_0 = LoadNibbles<DataType::kQ4_0, 18, 8, false, false>;
using LoadQ4_1 = LoadNibbles<DataType::kQ4_1, 20, 0, false, true>;
using LoadQ5_0 = LoadNibbles<DataType::kQ5_0, 22, 16, true, false>;
using LoadQ5_1 = LoadNibbles<DataType::kQ5_1, 24, 0, true, true>;

struct LoadIQ4_NL : NoTail {
    static constexpr DataType kType = DataType::kIQ4_NL;
    static HWY_INLINE void Chunk(const uint8_t* row, size_t i, V (&v)[kVectors]) {
        const uint8_t* block = row + i / 32 * 18;
        const DB db;
        const VB both = hn::LoadU(db, block + 2);
        const auto levels = hn::Load(DI(), kLevelsIQ4);
        Widen<false>(hn::TableLookupBytes(levels, hn::BitCast(DI(), hn::And(both, hn::Set(db, uint8_t{15})))),
                     hn::TableLookupBytes(levels, hn::BitCast(DI(), hn::ShiftRight<4>(both))),
                     hn::Set(D(), LoadHalf(block)), hn::Zero(D()), v);
    }
};

}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
