#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/cpu/vectors.h"
#include "kernels/cpu/weights/few.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/weights/few_256.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "kernels/cpu/settle-inl.h"
#include "kernels/cpu/weights/few-inl.h"
#include "kernels/cpu/weights/unpack-inl.h"

// One to four columns, weights in blocks of 256. Pairs of products are summed in 16 bits, multiplied by their sub-block's scale, which is an
// integer, and summed in 32 bits over the block; codes are at most 63, so that pairs fit. Then come the block's factors in f32.

#ifndef ATLAS_KERNELS_FEW_256_TABLES_
#define ATLAS_KERNELS_FEW_256_TABLES_
namespace atlas::kernels::cpu {

/** A 32-bit word per four elements of a block. */
using WordTable = std::array<uint32_t, 64>;
template <class Fn>
constexpr WordTable make_table(Fn fn) {
    WordTable table{};
    for (uint32_t i = 0; i < 64; ++i) table[i] = fn(4 * i);
    return table;
}

/** Shifts that bring nibbles and pairs of bits down, where 32 bytes hold two or four sub-blocks of 32. */
alignas(64) inline constexpr WordTable kShiftNibble = make_table([](uint32_t e) { return e / 32 % 2 * 4; });
alignas(64) inline constexpr WordTable kShiftPair = make_table([](uint32_t e) { return e / 32 % 4 * 2; });
alignas(64) inline constexpr WordTable kShiftPairOfTwo = make_table([](uint32_t e) { return e / 32 % 2 * 2; });
/** The bit that belongs to a sub-block of 32, in every byte. */
alignas(64) inline constexpr WordTable kSubBit = make_table([](uint32_t e) { return 0x01010101u << e / 32; });

/** Which of 16 bytes is the scale of two 16-bit lanes, as indices that write 0 beside it. */
constexpr uint32_t low_byte(uint32_t i) { return 0x80008000u | i | i << 16; }
constexpr uint32_t high_byte(uint32_t i) { return 0x00800080u | i << 8 | i << 24; }
alignas(64) inline constexpr WordTable kScaleOf32 = make_table([](uint32_t e) { return low_byte(e / 32); });
alignas(64) inline constexpr WordTable kScaleOf16 = make_table([](uint32_t e) { return low_byte(e / 16); });
alignas(64) inline constexpr WordTable kSignedScaleOf16 = make_table([](uint32_t e) { return high_byte(e / 16); });
/** The minima of q4_K, bytes 8–15, twice each: sums are of 16. */
alignas(64) inline constexpr std::array<uint32_t, 8> kMinimumTwice = {
    low_byte(8), low_byte(9), low_byte(10), low_byte(11), low_byte(12), low_byte(13), low_byte(14), low_byte(15)};
/** The scale of each of 32 lanes, four to a sub-block, in 32 bits. */
alignas(64) inline constexpr std::array<uint32_t, 32> kScaleOfLane = [] {
    std::array<uint32_t, 32> table{};
    for (uint32_t i = 0; i < 32; ++i) table[i] = 0x80808000u | i / 4;
    return table;
}();

}  // namespace atlas::kernels::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {

constexpr size_t kBytes = HWY_MIN(HWY_MAX_BYTES, size_t{64});
/** Vectors of codes per block. */
constexpr size_t kChunks = 256 / kBytes;

/** Whether ReorderWidenMulAccumulate shares its sums out over two vectors. */
constexpr bool kSpare = !HWY_ARCH_X86 || HWY_TARGET == HWY_EMU128;

// Half a vector of 16-bit lanes at most: a block has 16 sums.
using M16 = hn::CappedTag<int16_t, 16>;
using M32 = hn::RepartitionToWide<M16>;
using MF = hn::RebindToFloat<M32>;
using VM = hn::Vec<M16>;

HWY_INLINE VU Table(const WordTable& table, size_t chunk) { return hn::Load(DU(), table.data() + chunk * kBytes / 4); }

/** 32 bytes that sub-blocks share, as often as they fit; or the half that belongs to the chunk. */
HWY_INLINE VB LoadShared(const uint8_t* from, size_t chunk) {
#if HWY_MAX_BYTES >= 64
    (void)chunk;
    return VB{_mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
#elif HWY_MAX_BYTES == 32
    (void)chunk;
    return hn::LoadU(DB(), from);
#else
    return hn::LoadU(DB(), from + 16 * (chunk % 2));
#endif
}
HWY_INLINE VB ShiftDown(VB v, const WordTable& by, size_t chunk) {
    return hn::BitCast(DB(), hn::Shr(hn::BitCast(DU(), v), Table(by, chunk)));
}
HWY_INLINE VB AndByte(VB v, uint8_t mask) { return hn::And(v, hn::Set(DB(), mask)); }
/** codes + what, where the chunk's sub-blocks have their bit set in `bits`. */
HWY_INLINE VB AddBit(VB codes, VB bits, size_t chunk, uint8_t what) {
    const auto set = hn::TestBit(bits, hn::BitCast(DB(), Table(kSubBit, chunk)));
    return hn::MaskedAddOr(codes, set, codes, hn::Set(DB(), what));
}

/** Scales as 16-bit lanes. */
HWY_INLINE V16 Unsigned(VB table, const WordTable& pick, size_t chunk) {
    return hn::BitCast(D16(), hn::TableLookupBytesOr0(table, hn::BitCast(DB(), Table(pick, chunk))));
}
HWY_INLINE V16 Signed(VB table, const WordTable& pick, size_t chunk) {
    return hn::ShiftRight<8>(Unsigned(table, pick, chunk));
}
HWY_INLINE VB TwiceWords(uint64_t low, uint64_t high) {
    const hn::Repartition<uint64_t, D> d64;
    return hn::BitCast(DB(), hn::Dup128VecFromValues(d64, low, high));
}

/** What a block's sums are multiplied by. */
struct Factors {
    V of_products;
    hn::Vec<MF> of_minima;
};
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
/** Of two halves, which are followed by at least four bytes, times `by`: in registers all the way. */
HWY_INLINE Factors TwoHalves(const uint8_t* halves, float by) {
    const __m128 both = _mm_mul_ps(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(halves))), _mm_set1_ps(by));
    const hn::Vec<MF> less{_mm256_broadcastss_ps(_mm_movehdup_ps(both))};
#if HWY_MAX_BYTES >= 64
    return {V{_mm512_broadcastss_ps(both)}, less};
#else
    return {V{_mm256_broadcastss_ps(both)}, less};
#endif
}
#else
HWY_INLINE Factors TwoHalves(const uint8_t* halves, float by) {
    return {hn::Set(D(), HalfAt(halves) * by), hn::Set(MF(), HalfAt(halves + 2) * by)};
}
#endif
/** Of one half times `by`, and that times `offset`. */
template <int kOffset>
HWY_INLINE Factors OneHalf(const uint8_t* half, float by) {
    const float d = HalfAt(half) * by;
    return {hn::Set(D(), d), hn::Set(MF(), d * kOffset)};
}

// Each type: its scales as 16 bytes (Scales), scales of a chunk, codes of a chunk, and what the sums of activations are multiplied with:
// minima, or scales times what codes are offset by.

template <bool kFifth>
struct K4 {
    static constexpr size_t kBlock = kFifth ? 176 : 144;
    static HWY_INLINE VB Scales(const uint8_t* block) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3_DL
        // Six bits each, of words a, b, c: 4 low ones of a and of b; then c's low and high nibbles below two bits of a and of b. Bytes of any place
        // in (a, c) and (b, c) come in one instruction; scalar code takes 20.
        const __m512i words = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block)));
        const __m512i pairs = _mm512_shuffle_epi8(
            words, _mm512_broadcast_i32x4(_mm_setr_epi8(4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15)));
        const __m512i low = _mm512_multishift_epi64_epi8(
            _mm512_broadcast_i32x4(_mm_setr_epi8(0, 8, 16, 24, 32, 40, 48, 56, 0, 8, 16, 24, 36, 44, 52, 60)), pairs);
        const __m512i high = _mm512_multishift_epi64_epi8(
            _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 2, 10, 18, 26, 0, 0, 0, 0, 2, 10, 18, 26)), pairs);
        const __m512i of_low = _mm512_set1_epi64(0x0F0F0F0F3F3F3F3F), of_high = _mm512_set1_epi64(0x3030303000000000);
        return VB{_mm512_or_si512(_mm512_and_si512(low, of_low), _mm512_and_si512(high, of_high))};
#else
        const uint32_t a = Word32At(block + 4), b = Word32At(block + 8), c = Word32At(block + 12);
        const uint32_t s = (c & 0x0F0F0F0Fu) | (a >> 6 & 0x03030303u) << 4;
        const uint32_t m = (c >> 4 & 0x0F0F0F0Fu) | (b >> 6 & 0x03030303u) << 4;
        return TwiceWords((a & 0x3F3F3F3Fu) | uint64_t{s} << 32, (b & 0x3F3F3F3Fu) | uint64_t{m} << 32);
#endif
    }
    static HWY_INLINE V16 Scale(VB scales, size_t chunk) { return Unsigned(scales, kScaleOf32, chunk); }
    static HWY_INLINE VM Minima(VB scales, const uint8_t*, size_t half) {
        const hn::Repartition<uint8_t, M16> bytes;
        const auto pick = hn::Load(hn::Repartition<uint32_t, M16>(), kMinimumTwice.data() + half / 2);
        return hn::BitCast(M16(), hn::TableLookupBytesOr0(hn::ResizeBitCast(bytes, scales), hn::BitCast(bytes, pick)));
    }
    static HWY_INLINE VB Codes(const uint8_t* block, size_t chunk) {
        const uint8_t* quants = block + (kFifth ? 48 : 16) + 32 * (chunk * kBytes / 64);
        const VB low = AndByte(ShiftDown(LoadShared(quants, chunk), kShiftNibble, chunk), 15);
        return kFifth ? AddBit(low, LoadShared(block + 16, chunk), chunk, 16) : low;
    }
    static HWY_INLINE Factors Both(const uint8_t* block, float by) { return TwoHalves(block, by); }
};

/** Sixteen scales of eight bits with a sign. */
template <int kOffset>
struct SignedScales {
    static HWY_INLINE V16 Scale(VB scales, size_t chunk) { return Signed(scales, kSignedScaleOf16, chunk); }
    static HWY_INLINE VM Minima(VB scales, const uint8_t*, size_t half) {
        const hn::Rebind<int8_t, M16> bytes;
        const auto all = hn::ResizeBitCast(hn::FixedTag<int8_t, 16>(), hn::BitCast(DS(), scales));
#if HWY_MAX_BYTES >= 32
        (void)bytes, (void)half;
        return hn::PromoteTo(M16(), all);
#else
        return hn::PromoteTo(M16(), half == 0 ? hn::LowerHalf(bytes, all) : hn::UpperHalf(bytes, all));
#endif
    }
};

struct Q6 : SignedScales<32> {
    static constexpr size_t kBlock = 210;
    static HWY_INLINE VB Scales(const uint8_t* block) { return hn::LoadDup128(DB(), block + 192); }
    static HWY_INLINE VM Minima(VB, const uint8_t* block, size_t half) {
        const hn::Rebind<int8_t, M16> bytes;
        return hn::PromoteTo(M16(), hn::LoadU(bytes, reinterpret_cast<const int8_t*>(block) + 192 + half));
    }
    static HWY_INLINE VB Codes(const uint8_t* block, size_t chunk) {
        const hn::Repartition<uint16_t, D> d16;
        const size_t e = chunk * kBytes;
        const bool upper = e % 128 >= 64;
        VB low = hn::LoadU(DB(), block + e / 128 * 64 + e % 64);
        VB two = LoadShared(block + 128 + e / 128 * 32, chunk);
        if (upper) {
            low = hn::BitCast(DB(), hn::ShiftRight<4>(hn::BitCast(d16, low)));
        } else {
            two = hn::BitCast(DB(), hn::ShiftLeft<4>(hn::BitCast(d16, two)));
        }
        two = ShiftDown(two, kShiftPairOfTwo, chunk);
        return hn::OrAnd(AndByte(low, 15), two, hn::Set(DB(), uint8_t{0x30}));
    }
    static HWY_INLINE Factors Both(const uint8_t* block, float by) { return OneHalf<32>(block + 208, by); }
};

struct Q3 : SignedScales<4> {
    static constexpr size_t kBlock = 110;
    static HWY_INLINE VB Scales(const uint8_t* block) {
        const uint32_t a = Word32At(block + 96), b = Word32At(block + 100), c = Word32At(block + 104);
        const uint32_t low = 0x0F0F0F0Fu, two = 0x03030303u;
        const uint64_t w0 = (a & low) | (c & two) << 4, w1 = (b & low) | (c >> 2 & two) << 4;
        const uint64_t w2 = (a >> 4 & low) | (c >> 4 & two) << 4, w3 = (b >> 4 & low) | (c >> 6 & two) << 4;
        return hn::Sub(TwiceWords(w0 | w1 << 32, w2 | w3 << 32), hn::Set(DB(), uint8_t{32}));
    }
    static HWY_INLINE VB Codes(const uint8_t* block, size_t chunk) {
        const uint8_t* quants = block + 32 + 32 * (chunk * kBytes / 128);
        const VB two = AndByte(ShiftDown(LoadShared(quants, chunk), kShiftPair, chunk), 3);
        return AddBit(two, LoadShared(block, chunk), chunk, 4);
    }
    static HWY_INLINE Factors Both(const uint8_t* block, float by) { return OneHalf<4>(block + 108, by); }
};

struct Q2 {
    static constexpr size_t kBlock = 84;
    static HWY_INLINE VB Scales(const uint8_t* block) { return AndByte(hn::LoadDup128(DB(), block), 15); }
    static HWY_INLINE V16 Scale(VB scales, size_t chunk) { return Unsigned(scales, kScaleOf16, chunk); }
    static HWY_INLINE VM Minima(VB, const uint8_t* block, size_t half) {
        const hn::Rebind<uint8_t, M16> bytes;
        return hn::ShiftRight<4>(hn::PromoteTo(M16(), hn::LoadU(bytes, block + half)));
    }
    static HWY_INLINE VB Codes(const uint8_t* block, size_t chunk) {
        const uint8_t* quants = block + 16 + 32 * (chunk * kBytes / 128);
        return AndByte(ShiftDown(LoadShared(quants, chunk), kShiftPair, chunk), 3);
    }
    static HWY_INLINE Factors Both(const uint8_t* block, float by) {
        // The block's last four bytes.
        return {hn::Set(D(), HalfAt(block + 80) * by), hn::Set(MF(), HalfAt(block + 82) * by)};
    }
};

template <class T, size_t C>
HWY_NOINLINE void Rows(const FewArgs& args, size_t first_column) {
    const DI di;
    const auto blocks = static_cast<size_t>(args.weights.cols) / 256;
    const FewColumns<C> columns(args, first_column);
    for (int64_t r = args.begin; r < args.end; ++r) {
        const uint8_t* block = args.row(r);
        const uint8_t* soon = args.soon(block);
        V sum[C];
        hn::Vec<MF> less[C];
        ATLAS_UNROLL
        for (size_t c = 0; c < C; ++c) {
            sum[c] = hn::Zero(D());
            less[c] = hn::Zero(MF());
        }
        for (size_t b = 0; b < blocks; ++b, block += T::kBlock, soon += T::kBlock) {
            PrefetchRow(soon, T::kBlock);
            const VB scales = T::Scales(block);
            VI products[C], spare[C];
            ATLAS_UNROLL
            for (size_t c = 0; c < C; ++c) products[c] = spare[c] = hn::Zero(di);
            ATLAS_UNROLL
            for (size_t chunk = 0; chunk < kChunks; ++chunk) {
                const VB codes = T::Codes(block, chunk);
                const V16 scale = T::Scale(scales, chunk);
                ATLAS_UNROLL
                for (size_t c = 0; c < C; ++c) {
                    const VS a = hn::LoadU(DS(), columns.codes[c] + 256 * b + chunk * kBytes);
                    const V16 pairs = hn::SatWidenMulPairwiseAdd(D16(), codes, a);
                    products[c] = hn::ReorderWidenMulAccumulate(di, pairs, scale, products[c], spare[c]);
                    if (C > 1) Settle(products[c]);
                }
            }
            hn::Vec<M32> minima[C];
            for (size_t c = 0; c < C; ++c) minima[c] = hn::Zero(M32());
            for (size_t half = 0; half < 16; half += hn::Lanes(M16())) {
                const VM minimum = T::Minima(scales, block, half);
                ATLAS_UNROLL
                for (size_t c = 0; c < C; ++c) {
                    const VM sums = hn::LoadU(M16(), columns.short_sums[c] + 16 * b + half);
                    minima[c] = hn::Add(minima[c], hn::WidenMulPairwiseAdd(M32(), minimum, sums));
                }
            }
            ATLAS_UNROLL
            for (size_t c = 0; c < C; ++c) {
                const Factors factors = T::Both(block, columns.scales[c][b]);
                if (kSpare) products[c] = hn::Add(products[c], spare[c]);
                sum[c] = hn::MulAdd(hn::ConvertTo(D(), products[c]), factors.of_products, sum[c]);
                less[c] = hn::MulAdd(hn::ConvertTo(MF(), minima[c]), factors.of_minima, less[c]);
            }
        }
        ATLAS_UNROLL
        for (size_t c = 0; c < C; ++c) {
            columns.out[c][r] = hn::ReduceSum(D(), sum[c]) - hn::ReduceSum(MF(), less[c]);
        }
    }
}

/** iq4_xs: levels have eight bits, so that sums of lanes are multiplied by their scales instead; split order as in few_32.cpp. */
template <size_t C>
HWY_NOINLINE void RowsIQ4(const FewArgs& args, size_t first_column) {
    const DI di;
    const D df;
    const auto blocks = static_cast<size_t>(args.weights.cols) / 256;
    const FewColumns<C> columns(args, first_column);
    alignas(64) int32_t first[C][kFewCols / 8];
    for (size_t c = 0; c < C; ++c) {
        for (size_t i = 0; i < blocks * 32; i += hn::Lanes(di))
            hn::Store(hn::Sub(hn::Zero(di), hn::ShiftLeft<7>(hn::Load(di, columns.lane_sums[c] + i))), di,
                      first[c] + i);
    }
    const hn::Repartition<uint16_t, decltype(df)> d16;
    const VB levels = hn::LoadDup128(DB(), kBytesIQ4.data());
    for (int64_t r = args.begin; r < args.end; ++r) {
        const uint8_t* block = args.row(r);
        V sum[C];
        ATLAS_UNROLL
        for (size_t c = 0; c < C; ++c) sum[c] = hn::Zero(df);
        for (size_t b = 0; b < blocks; ++b, block += 136) {
            PrefetchRow(args.soon(block), 136);
#if HWY_TARGET <= HWY_AVX2
            const uint64_t six = _pdep_u64(Word32At(block + 4), 0x0F0F0F0F0F0F0F0FULL) |
                                 _pdep_u64(WordAt(block + 2), 0x3030303030303030ULL);
            const VB scales = TwiceWords(six, six);
            const VI less = hn::Set(di, 32);
#else
            alignas(16) int8_t bytes[16] = {};
            UnpackScalesIQ4(block, bytes);
            for (int8_t& byte : bytes) byte = static_cast<int8_t>(byte + 32);
            const VB scales = hn::LoadDup128(DB(), reinterpret_cast<const uint8_t*>(bytes));
            const VI less = hn::Set(di, 32);
#endif
            V factor[C];
            const float d = HalfAt(block);
            ATLAS_UNROLL
            for (size_t c = 0; c < C; ++c) factor[c] = hn::Set(df, d * columns.scales[c][b]);
            ATLAS_UNROLL
            for (size_t v = 0; v < 128 / kBytes; ++v) {
                const VB nibbles = hn::LoadU(DB(), block + 8 + v * kBytes);
                const VB low = hn::TableLookupBytes(levels, AndByte(nibbles, 15));
                const VB high = hn::TableLookupBytes(
                    levels, AndByte(hn::BitCast(DB(), hn::ShiftRight<4>(hn::BitCast(d16, nibbles))), 15));
                const auto pick = hn::BitCast(DB(), hn::Load(DU(), kScaleOfLane.data() + v * kBytes / 4));
                const V scale =
                    hn::ConvertTo(df, hn::Sub(hn::BitCast(di, hn::TableLookupBytesOr0(scales, pick)), less));
                const size_t at = 8 * b + v * kBytes / 16;  // first block of 32
                const size_t split = at / 4 * 128 + at % 4 * 16;
                ATLAS_UNROLL
                for (size_t c = 0; c < C; ++c) {
                    VI lanes = hn::Load(di, first[c] + 4 * at);
                    lanes = AddQuads<true>(lanes, low, hn::Load(DS(), columns.split_codes[c] + split));
                    lanes = AddQuads<true>(lanes, high, hn::Load(DS(), columns.split_codes[c] + split + 64));
                    sum[c] = hn::MulAdd(hn::ConvertTo(df, lanes), hn::Mul(scale, factor[c]), sum[c]);
                }
            }
        }
        ATLAS_UNROLL
        for (size_t c = 0; c < C; ++c) columns.out[c][r] = hn::ReduceSum(df, sum[c]);
    }
}

template <class T>
void AllColumns(const FewArgs& args) {
    EachGroup<kMostColumns>(
        args, [](auto count, const FewArgs& part, size_t first) { Rows<T, decltype(count)::value>(part, first); });
}

void MultiplyFew256(const FewArgs& args) {
    switch (args.weights.type) {
        case WeightType::kQ4_K:
            return AllColumns<K4<false>>(args);
        case WeightType::kQ5_K:
            return AllColumns<K4<true>>(args);
        case WeightType::kQ6_K:
            return AllColumns<Q6>(args);
        case WeightType::kQ3_K:
            return AllColumns<Q3>(args);
        case WeightType::kQ2_K:
            return AllColumns<Q2>(args);
        default:
            return EachGroup<kMostColumns>(args, [](auto count, const FewArgs& part, size_t first) {
                RowsIQ4<decltype(count)::value>(part, first);
            });
    }
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {
HWY_EXPORT(MultiplyFew256);
void multiply_few_256(const FewArgs& args) { HWY_DYNAMIC_DISPATCH(MultiplyFew256)(args); }
}  // namespace atlas::kernels::cpu
#endif
