#include <algorithm>
#include <cstring>

#include "kernels/cpu/vectors.h"
#include "kernels/cpu/weights/few.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/weights/few_32.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "kernels/cpu/weights/few-inl.h"
#include "kernels/cpu/weights/unpack-inl.h"

// One to four columns, weights in sub-blocks of 32 with a scale each: a row is read once, four vectors of codes at a time, each of which holds
// the first or last halves of as many blocks as it has 128-bit lanes (split order, kernels/weights.h). A 32-bit lane then belongs to one block,
// and sums of lanes are weighed by their block's scale.

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {

constexpr size_t kBytes = HWY_MIN(HWY_MAX_BYTES, size_t{64});
/** Blocks that a vector of codes has halves of; a step is four such vectors. */
constexpr size_t kPerVector = kBytes / 16;
constexpr size_t kStep = 4 * kPerVector;

/** 16 bytes of each of kPerVector blocks. */
template <size_t kStride>
HWY_INLINE VB LoadBlocks(const uint8_t* from) {
    const hn::FixedTag<uint8_t, 16> d16;
    VB v = hn::ResizeBitCast(DB(), hn::LoadU(d16, from));
#if HWY_MAX_BYTES >= 32
    v = hn::InsertBlock<1>(v, hn::LoadU(d16, from + kStride));
#endif
#if HWY_MAX_BYTES >= 64
    v = hn::InsertBlock<2>(v, hn::LoadU(d16, from + 2 * kStride));
    v = hn::InsertBlock<3>(v, hn::LoadU(d16, from + 3 * kStride));
#endif
    return v;
}

HWY_INLINE void Nibbles(VB v, VB* low, VB* high) {
    const hn::Repartition<uint16_t, DB> d16;
    const VB mask = hn::Set(DB(), uint8_t{15});
    *low = hn::And(v, mask);
    *high = hn::And(hn::BitCast(DB(), hn::ShiftRight<4>(hn::BitCast(d16, v))), mask);
}

/** Adds 16 where fifth bits are set: those of elements 0–15 of the blocks to `low`, of 16–31 to `high`. */
template <size_t kStride>
HWY_INLINE void AddFifth(const uint8_t* bits, VB* low, VB* high) {
    uint64_t low_bits = 0, high_bits = 0;
    for (size_t b = 0; b < kPerVector; ++b) {
        const uint64_t word = Word32At(bits + b * kStride);
        low_bits |= (word & 0xFFFF) << (16 * b);
        high_bits |= (word >> 16) << (16 * b);
    }
    const VB sixteen = hn::Set(DB(), uint8_t{16});
#if HWY_TARGET <= HWY_AVX3
    const auto low_mask = hn::MFromD<DB>{static_cast<__mmask64>(low_bits)};
    const auto high_mask = hn::MFromD<DB>{static_cast<__mmask64>(high_bits)};
#else
    const auto low_mask = hn::LoadMaskBits(DB(), reinterpret_cast<const uint8_t*>(&low_bits));
    const auto high_mask = hn::LoadMaskBits(DB(), reinterpret_cast<const uint8_t*>(&high_bits));
#endif
    *low = hn::MaskedAddOr(*low, low_mask, *low, sixteen);
    *high = hn::MaskedAddOr(*high, high_mask, *high, sixteen);
}

/** Types whose blocks begin with an f16 scale and end with nibbles. */
template <size_t kBlockBytes, int kCodeOffset, bool kFifth, bool kHasMinima, bool kLevels>
struct NibbleBlocks {
    static constexpr size_t kBlock = kBlockBytes;
    static constexpr int kOffset = kCodeOffset;
    static constexpr bool kMinima = kHasMinima;
    static constexpr bool kWide = kLevels;
    static HWY_INLINE void Codes(const uint8_t* from, VB* low, VB* high) {
        Nibbles(LoadBlocks<kBlock>(from + kBlock - 16), low, high);
        if (kFifth) AddFifth<kBlock>(from + kBlock - 20, low, high);
        if (kLevels) {
            const VB levels = hn::LoadDup128(DB(), kLevelsIQ4);
            *low = hn::TableLookupBytes(levels, *low);
            *high = hn::TableLookupBytes(levels, *high);
        }
    }
    static HWY_INLINE uint32_t Scale(const uint8_t* block) { return WordAt(block); }
    static HWY_INLINE V Widen(const uint16_t* scales) { return WidenVector(scales); }
};

struct Q8_0Blocks {
    static constexpr size_t kBlock = 34;
    static constexpr int kOffset = 128;
    static constexpr bool kMinima = false;
    static constexpr bool kWide = true;
    static HWY_INLINE void Codes(const uint8_t* from, VB* low, VB* high) {
        const VB sign = hn::Set(DB(), uint8_t{128});
        *low = hn::Xor(LoadBlocks<kBlock>(from + 2), sign);
        *high = hn::Xor(LoadBlocks<kBlock>(from + 18), sign);
    }
    static HWY_INLINE uint32_t Scale(const uint8_t* block) { return WordAt(block); }
    static HWY_INLINE V Widen(const uint16_t* scales) { return WidenVector(scales); }
};

struct MXFP4Blocks {
    static constexpr size_t kBlock = 17;
    static constexpr int kOffset = 12;
    static constexpr bool kMinima = false;
    static constexpr bool kWide = false;
    static HWY_INLINE void Codes(const uint8_t* from, VB* low, VB* high) {
        const VB levels = hn::LoadDup128(DB(), kLevelsFP4);
        Nibbles(LoadBlocks<kBlock>(from + 1), low, high);
        *low = hn::TableLookupBytes(levels, *low);
        *high = hn::TableLookupBytes(levels, *high);
    }
    static HWY_INLINE uint32_t Scale(const uint8_t* block) { return *block; }
    /** 2^(e − 128); the two smallest are subnormal. */
    static HWY_INLINE V Widen(const uint16_t* scales) {
        const hn::Rebind<uint16_t, D> d16;
        const DU du;
        const VU e = hn::PromoteTo(du, hn::LoadU(d16, scales));
        const VU usual = hn::ShiftLeft<23>(hn::Sub(e, hn::Set(du, 1)));
        const VU small = hn::IfThenElse(hn::Eq(e, hn::Zero(du)), hn::Set(du, 0x00200000u), hn::Set(du, 0x00400000u));
        return hn::BitCast(D(), hn::IfThenElse(hn::Lt(e, hn::Set(du, 2)), small, usual));
    }
};

/** Keeps a loop over single numbers out of vector registers: the port that inserts into those is the busiest one here. */
HWY_INLINE uint32_t Scalar(uint32_t value) {
    __asm__("" : "+r"(value));
    return value;
}

/** Scales of a row, compact: gathered a row ahead, since a load that follows so many small stores at once would wait for them. */
template <class T>
struct RowScales {
    alignas(64) uint16_t scales[kFewCols / 32];
    alignas(64) uint16_t minima[T::kMinima ? kFewCols / 32 : 1];

    HWY_INLINE void Gather(const uint8_t* row, size_t begin, size_t end) {
        for (size_t b = begin; b < end; ++b) {
            scales[b] = static_cast<uint16_t>(Scalar(T::Scale(row + b * T::kBlock)));
            if (T::kMinima) minima[b] = static_cast<uint16_t>(Scalar(WordAt(row + b * T::kBlock + 2)));
        }
    }
};

template <class T, size_t C>
struct Columns {
    FewColumns<C> of;
    /** Where sums of lanes begin: −offset · Σ codes. */
    alignas(64) int32_t first[C][kFewCols / 8];
};

/** One step: four vectors of codes. */
template <class T, size_t C, class Index>
HWY_INLINE void Step(const uint8_t* blocks, size_t step, const Columns<T, C>& columns, const V (&factor)[C],
                     const Index (&index)[4], V (&sum)[C]) {
    const DI di;
    ATLAS_UNROLL
    for (size_t g = 0; g < 4; ++g) {
        VB low, high;
        T::Codes(blocks + g * kPerVector * T::kBlock, &low, &high);
        const size_t block = (4 * step + g) * kPerVector;
        const size_t at = block / 4 * 128 + block % 4 * 16;
        ATLAS_UNROLL
        for (size_t c = 0; c < C; ++c) {
            VI lanes = hn::Load(di, columns.first[c] + block * 4);
            lanes = AddQuads<T::kWide>(lanes, low, hn::Load(DS(), columns.of.split_codes[c] + at));
            lanes = AddQuads<T::kWide>(lanes, high, hn::Load(DS(), columns.of.split_codes[c] + at + 64));
            sum[c] = hn::MulAdd(hn::ConvertTo(D(), lanes), hn::TableLookupLanes(factor[c], index[g]), sum[c]);
        }
    }
}

template <class T, size_t C>
HWY_NOINLINE void Rows(const FewArgs& args, size_t first_column) {
    const D d;
    const auto cols = static_cast<size_t>(args.weights.cols);
    const size_t blocks = cols / 32, whole = blocks / kStep, left = blocks % kStep;
    Columns<T, C> columns;
    columns.of = FewColumns<C>(args, first_column);
    for (size_t c = 0; c < C; ++c) {
        const DI di;
        const VI by = hn::Set(di, -T::kOffset);
        const size_t count = (blocks + kStep - 1) / kStep * kStep * 4;
        for (size_t i = 0; i < count; i += hn::Lanes(di))
            hn::Store(hn::Mul(hn::Load(di, columns.of.lane_sums[c] + i), by), di, columns.first[c] + i);
    }
    // Lane j of the factors of vector g: those of block g · kPerVector + j / 4.
    alignas(64) int32_t indices[4][kStep];
    for (size_t g = 0; g < 4; ++g) {
        for (size_t j = 0; j < kStep; ++j) indices[g][j] = static_cast<int32_t>(g * kPerVector + j / 4);
    }
    using Index = decltype(hn::SetTableIndices(d, indices[0]));
    const Index index[4] = {hn::SetTableIndices(d, indices[0]), hn::SetTableIndices(d, indices[1]),
                            hn::SetTableIndices(d, indices[2]), hn::SetTableIndices(d, indices[3])};

    RowScales<T> scales[2];
    std::memset(scales, 0, sizeof scales);
    const size_t row_bytes = blocks * T::kBlock;
    const uint8_t* row = args.row(args.begin);
    scales[0].Gather(row, 0, blocks);
    for (int64_t r = args.begin; r < args.end; ++r, row += args.weights.row_stride) {
        const RowScales<T>& mine = scales[(r - args.begin) & 1];
        RowScales<T>& next = scales[(r - args.begin + 1) & 1];
        const uint8_t* next_row = r + 1 < args.end ? row + args.weights.row_stride : row;
        V sum[C], minima[C];
        ATLAS_UNROLL
        for (size_t c = 0; c < C; ++c) sum[c] = minima[c] = hn::Zero(d);
        const auto factors = [&](size_t step, V(&factor)[C]) HWY_ATTR {
            const V scale = T::Widen(mine.scales + step * kStep);
            ATLAS_UNROLL
            for (size_t c = 0; c < C; ++c) {
                factor[c] = hn::Mul(scale, hn::Load(d, columns.of.scales[c] + step * kStep));
                if (T::kMinima) {
                    minima[c] = hn::MulAdd(WidenVector(mine.minima + step * kStep),
                                           hn::Load(d, columns.of.offsets[c] + step * kStep), minima[c]);
                }
            }
        };
        for (size_t step = 0; step < whole; ++step) {
            const uint8_t* at = row + step * kStep * T::kBlock;
            PrefetchRow(at + args.ahead, kStep * T::kBlock);
            next.Gather(next_row, step * kStep, (step + 1) * kStep);
            V factor[C];
            factors(step, factor);
            Step<T, C>(at, step, columns, factor, index, sum);
        }
        if (left != 0) {
            alignas(64) uint8_t padded[kStep * T::kBlock] = {};
            next.Gather(next_row, whole * kStep, blocks);
            std::memcpy(padded, row + whole * kStep * T::kBlock, row_bytes - whole * kStep * T::kBlock);
            V factor[C];
            factors(whole, factor);
            Step<T, C>(padded, whole, columns, factor, index, sum);
        }
        ATLAS_UNROLL
        for (size_t c = 0; c < C; ++c) {
            if (T::kMinima) sum[c] = hn::Add(sum[c], minima[c]);
            columns.of.out[c][r] = hn::ReduceSum(d, sum[c]);
        }
    }
}

template <class T>
void AllColumns(const FewArgs& args) {
    EachGroup<kMostColumns>(
        args, [](auto count, const FewArgs& part, size_t first) { Rows<T, decltype(count)::value>(part, first); });
}

void MultiplyFew32(const FewArgs& args) {
    switch (args.weights.type) {
        case WeightType::kQ8_0:
            return AllColumns<Q8_0Blocks>(args);
        case WeightType::kQ4_0:
            return AllColumns<NibbleBlocks<18, 8, false, false, false>>(args);
        case WeightType::kQ4_1:
            return AllColumns<NibbleBlocks<20, 0, false, true, false>>(args);
        case WeightType::kQ5_0:
            return AllColumns<NibbleBlocks<22, 16, true, false, false>>(args);
        case WeightType::kQ5_1:
            return AllColumns<NibbleBlocks<24, 0, true, true, false>>(args);
        case WeightType::kIQ4_NL:
            return AllColumns<NibbleBlocks<18, 128, false, false, true>>(args);
        default:
            return AllColumns<MXFP4Blocks>(args);
    }
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {
HWY_EXPORT(MultiplyFew32);
void multiply_few_32(const FewArgs& args) { HWY_DYNAMIC_DISPATCH(MultiplyFew32)(args); }
}  // namespace atlas::kernels::cpu
#endif
