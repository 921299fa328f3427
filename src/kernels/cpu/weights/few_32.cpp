#include <algorithm>
#include <array>
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
#if HWY_MAX_BYTES >= 64
    // One permutation of two vectors instead of three insertions: the port for both is the busiest one here.
    if constexpr (kStride % 4 == 0) {
        constexpr size_t kSecond = 3 * kStride + 16 - 64;  // bytes; where the second vector begins
        alignas(64) static constexpr auto kWords = [] {
            std::array<uint32_t, 16> words{};
            for (uint32_t i = 0; i < 16; ++i) {
                const uint32_t word = i / 4 * (kStride / 4) + i % 4;
                words[i] = word < 16 ? word : word - kSecond / 4 + 16;
            }
            return words;
        }();
        const DU du;
        return hn::BitCast(DB(), hn::TwoTablesLookupLanes(du, hn::BitCast(du, hn::LoadU(DB(), from)),
                                                          hn::BitCast(du, hn::LoadU(DB(), from + kSecond)),
                                                          hn::SetTableIndices(du, kWords.data())));
    }
#endif
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

/** The halves in the lower 16 bits. */
HWY_INLINE V LowHalves(VU words) {
    const hn::Rebind<hwy::float16_t, D> half;
    return hn::PromoteTo(D(), hn::BitCast(half, hn::TruncateTo(hn::Rebind<uint16_t, D>(), words)));
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
            const VB levels = hn::LoadDup128(DB(), kBytesIQ4.data());
            *low = hn::TableLookupBytes(levels, *low);
            *high = hn::TableLookupBytes(levels, *high);
        }
    }
    static HWY_INLINE V Scales(VU heads) { return LowHalves(heads); }
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
    static HWY_INLINE V Scales(VU heads) { return LowHalves(heads); }
};

struct MXFP4Blocks {
    static constexpr size_t kBlock = 17;
    static constexpr int kOffset = 12;
    static constexpr bool kMinima = false;
    static constexpr bool kWide = false;
    static HWY_INLINE void Codes(const uint8_t* from, VB* low, VB* high) {
        const VB levels = hn::LoadDup128(DB(), kBytesFP4.data());
        Nibbles(LoadBlocks<kBlock>(from + 1), low, high);
        *low = hn::TableLookupBytes(levels, *low);
        *high = hn::TableLookupBytes(levels, *high);
    }
    /** 2^(e − 128); the two smallest are subnormal. */
    static HWY_INLINE V Scales(VU heads) {
        const DU du;
        const VU e = hn::And(heads, hn::Set(du, 255));
        const VU usual = hn::ShiftLeft<23>(hn::Sub(e, hn::Set(du, 1)));
        const VU small = hn::IfThenElse(hn::Eq(e, hn::Zero(du)), hn::Set(du, 0x00200000u), hn::Set(du, 0x00400000u));
        return hn::BitCast(D(), hn::IfThenElse(hn::Lt(e, hn::Set(du, 2)), small, usual));
    }
};

/**
 * What is left of a row behind its last whole vector, as the row's last vector: blocks that it reads a second time meet zeros. Rows shorter than
 * a vector (kPerVector blocks) are copied behind zeros first.
 */
struct Tail {
    alignas(64) int8_t low[kBytes];   ///< elements 0–15 of the blocks
    alignas(64) int8_t high[kBytes];  ///< elements 16–31
    alignas(64) int32_t first[kBytes / 4];
    alignas(64) float scales[HWY_MAX(kStep, 16)];
    alignas(64) float offsets[HWY_MAX(kStep, 16)];
};

template <class T, size_t C>
struct Columns {
    FewColumns<C> of;
    /** Where sums of lanes begin: −offset · Σ codes. */
    alignas(64) int32_t first[C][kFewCols / 8];
    Tail tail[C];

    Columns(const FewArgs& args, size_t first_column) : of(args, first_column) {
        const DI di;
        const VI by = hn::Set(di, -T::kOffset);
        const size_t blocks = static_cast<size_t>(args.weights.cols) / 32;
        const size_t count = (blocks + kStep - 1) / kStep * kStep * 4;
        const size_t left = blocks % kPerVector;
        for (size_t c = 0; c < C; ++c) {
            for (size_t i = 0; i < count; i += hn::Lanes(di))
                hn::Store(hn::Mul(hn::Load(di, of.lane_sums[c] + i), by), di, first[c] + i);
            if (left == 0) continue;
            tail[c] = {};
            for (size_t i = 0; i < left; ++i) {
                const size_t block = blocks - left + i, to = kPerVector - left + i;
                const size_t at = block / 4 * 128 + block % 4 * 16;
                std::memcpy(tail[c].low + to * 16, of.split_codes[c] + at, 16);
                std::memcpy(tail[c].high + to * 16, of.split_codes[c] + at + 64, 16);
                std::memcpy(tail[c].first + to * 4, first[c] + block * 4, 16);
                tail[c].scales[to] = of.scales[c][block];
                if (T::kMinima) tail[c].offsets[to] = of.offsets[c][block];
            }
        }
    }
};

/** sum + scale · products of one vector of codes. */
template <class T>
HWY_INLINE V AddVector(VB low, VB high, const int8_t* low_codes, const int8_t* high_codes, const int32_t* first,
                       V scale, V sum) {
    VI lanes = hn::Load(DI(), first);
    lanes = AddQuads<T::kWide>(lanes, low, hn::Load(DS(), low_codes));
    lanes = AddQuads<T::kWide>(lanes, high, hn::Load(DS(), high_codes));
    return hn::MulAdd(hn::ConvertTo(D(), lanes), scale, sum);
}

/** Vector g of a step. */
template <class T, size_t C, class Index>
HWY_INLINE void StepVector(const uint8_t* blocks, size_t step, size_t g, const Columns<T, C>& columns,
                           const V (&factor)[C], Index index, V (&sum)[C]) {
    VB low, high;
    T::Codes(blocks + g * kPerVector * T::kBlock, &low, &high);
    const size_t block = (4 * step + g) * kPerVector;
    const size_t at = block / 4 * 128 + block % 4 * 16;
    ATLAS_UNROLL
    for (size_t c = 0; c < C; ++c) {
        sum[c] = AddVector<T>(low, high, columns.of.split_codes[c] + at, columns.of.split_codes[c] + at + 64,
                              columns.first[c] + block * 4, hn::TableLookupLanes(factor[c], index), sum[c]);
    }
}

/** Word at which vector v of a step of `span` words is read: the last ones end with it. */
[[maybe_unused]] constexpr size_t Begin(size_t v, size_t span) { return HWY_MIN(16 * v, span - 16); }

/** The first four bytes of each block of a step. */
template <class T>
HWY_INLINE VU StepHeads(const uint8_t* blocks) {
    const DU du;
#if HWY_MAX_BYTES >= 64
    if constexpr (T::kBlock % 4 == 0) {
        // A gather takes the ports of some thirteen permutations.
        constexpr size_t kWords = T::kBlock / 4, kSpan = kStep * kWords;
        constexpr size_t kPairs = (kSpan + 31) / 32;
        VU heads = hn::Zero(du);
        alignas(64) static constexpr auto kIndices = [] {
            std::array<std::array<uint32_t, kStep>, kPairs> indices{};
            for (size_t p = 0; p < kPairs; ++p) {
                const size_t first = Begin(2 * p, kSpan), second = Begin(2 * p + 1, kSpan);
                for (size_t b = 0; b < kStep; ++b) {
                    const size_t word = b * kWords;
                    if (word / 32 == p)
                        indices[p][b] = static_cast<uint32_t>(word / 16 % 2 == 0 ? word - first : word - second + 16);
                }
            }
            return indices;
        }();
        const auto* words = reinterpret_cast<const uint8_t*>(blocks);
        ATLAS_UNROLL
        for (size_t p = 0; p < kPairs; ++p) {
            const VU a = hn::BitCast(du, hn::LoadU(DB(), words + 4 * Begin(2 * p, kSpan)));
            const VU b = hn::BitCast(du, hn::LoadU(DB(), words + 4 * Begin(2 * p + 1, kSpan)));
            const VU of_pair = hn::TwoTablesLookupLanes(du, a, b, hn::SetTableIndices(du, kIndices[p].data()));
            // Blocks that begin in the pairs before.
            constexpr auto kBefore = [](size_t pair) { return (32 * pair + kWords - 1) / kWords; };
            heads = p == 0 ? of_pair : hn::IfThenElse(hn::FirstN(du, kBefore(p)), heads, of_pair);
        }
        return heads;
    }
#endif
#if HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR
    alignas(16) uint32_t heads[4];
    for (size_t b = 0; b < kStep; ++b) heads[b] = Word32At(blocks + b * T::kBlock);
    return hn::Load(du, heads);
#else
    const DI di;
    const VI at = hn::Mul(hn::Iota(di, 0), hn::Set(di, static_cast<int32_t>(T::kBlock)));
    return hn::BitCast(du, hn::GatherOffset(di, reinterpret_cast<const int32_t*>(blocks), at));
#endif
}

/** The same of the blocks of one vector; what the lanes behind them hold is finite where the blocks are. */
template <class T>
HWY_INLINE VU VectorHeads(const uint8_t* blocks) {
    uint32_t heads[4];
    for (size_t b = 0; b < 4; ++b) heads[b] = Word32At(blocks + (b < kPerVector ? b : 0) * T::kBlock);
    return hn::Dup128VecFromValues(DU(), heads[0], heads[1], heads[2], heads[3]);
}

/** sums[r] = Σ of v[r] of four vectors. */
HWY_INLINE void StoreSums(const V (&v)[4], float* HWY_RESTRICT sums) {
    const D d;
    const hn::Repartition<double, D> d64;
    const auto pairs = [&](V a, V b) HWY_ATTR {
        return hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
    };
    const auto ab = pairs(v[0], v[1]), cd = pairs(v[2], v[3]);
    const V sum =
        hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, ab, cd)), hn::BitCast(d, hn::InterleaveUpper(d64, ab, cd)));
    const hn::FixedTag<float, 4> d4;
#if HWY_MAX_BYTES >= 64
    const hn::Half<D> half;
    const auto two = hn::Add(hn::LowerHalf(half, sum), hn::UpperHalf(half, sum));
    hn::StoreU(hn::Add(hn::LowerHalf(d4, two), hn::UpperHalf(d4, two)), d4, sums);
#elif HWY_MAX_BYTES >= 32
    hn::StoreU(hn::Add(hn::LowerHalf(d4, sum), hn::UpperHalf(d4, sum)), d4, sums);
#else
    hn::StoreU(sum, d4, sums);
#endif
}

template <class T, size_t C>
HWY_NOINLINE void Rows(const FewArgs& args, size_t first_column) {
    const D d;
    const size_t blocks = static_cast<size_t>(args.weights.cols) / 32, whole = blocks / kStep;
    const size_t vectors = blocks % kStep / kPerVector, left = blocks % kPerVector;
    const Columns<T, C> columns(args, first_column);
    // Lane j of the factors of a step's vector g: those of its block j / 4.
    alignas(64) int32_t lanes[4][kStep];
    for (size_t g = 0; g < 4; ++g) {
        for (size_t j = 0; j < kStep; ++j) lanes[g][j] = static_cast<int32_t>(g * kPerVector + j / 4);
    }
    using Index = decltype(hn::SetTableIndices(d, lanes[0]));
    const Index index[4] = {hn::SetTableIndices(d, lanes[0]), hn::SetTableIndices(d, lanes[1]),
                            hn::SetTableIndices(d, lanes[2]), hn::SetTableIndices(d, lanes[3])};
    const auto of_vector = hn::FirstN(d, kPerVector);

    const auto row_sums = [&](const uint8_t* HWY_RESTRICT row, V(&sum)[C]) HWY_ATTR __attribute__((always_inline)) {
        V minima[C], factor[C];
        ATLAS_UNROLL
        for (size_t c = 0; c < C; ++c) sum[c] = minima[c] = hn::Zero(d);
        for (size_t step = 0; step < whole; ++step) {
            const uint8_t* at = row + step * kStep * T::kBlock;
            PrefetchRow(args.soon(at), kStep * T::kBlock);
            const VU heads = StepHeads<T>(at);
            const V scale = T::Scales(heads);
            ATLAS_UNROLL
            for (size_t c = 0; c < C; ++c) {
                factor[c] = hn::Mul(scale, hn::Load(d, columns.of.scales[c] + step * kStep));
                if (T::kMinima) {
                    minima[c] = hn::MulAdd(LowHalves(hn::ShiftRight<16>(heads)),
                                           hn::Load(d, columns.of.offsets[c] + step * kStep), minima[c]);
                }
            }
            ATLAS_UNROLL
            for (size_t g = 0; g < 4; ++g) StepVector<T, C>(at, step, g, columns, factor, index[g], sum);
        }
        const uint8_t* at = row + whole * kStep * T::kBlock;
        if (vectors + left != 0) PrefetchRow(args.soon(at), (blocks - whole * kStep) * T::kBlock);
        for (size_t g = 0; g < vectors; ++g) {
            const VU heads = VectorHeads<T>(at + g * kPerVector * T::kBlock);
            const size_t block = whole * kStep + g * kPerVector;
            ATLAS_UNROLL
            for (size_t c = 0; c < C; ++c) {
                factor[c] = hn::Mul(T::Scales(heads), hn::LoadU(d, columns.of.scales[c] + block));
                if (T::kMinima) {
                    const V offsets = hn::MaskedLoad(of_vector, d, columns.of.offsets[c] + block);
                    minima[c] = hn::MulAdd(LowHalves(hn::ShiftRight<16>(heads)), offsets, minima[c]);
                }
            }
            StepVector<T, C>(at, whole, g, columns, factor, index[0], sum);
        }
        if (left != 0) {
            alignas(64) uint8_t copy[kPerVector * T::kBlock];
            const uint8_t* from = copy;
            if (blocks < kPerVector) {
                std::memset(copy, 0, sizeof copy);
                std::memcpy(copy + (kPerVector - blocks) * T::kBlock, row, blocks * T::kBlock);
            } else {
                from = row + (blocks - kPerVector) * T::kBlock;
            }
            const VU heads = VectorHeads<T>(from);
            VB low, high;
            T::Codes(from, &low, &high);
            ATLAS_UNROLL
            for (size_t c = 0; c < C; ++c) {
                const Tail& tail = columns.tail[c];
                const V scale = hn::Mul(T::Scales(heads), hn::Load(d, tail.scales));
                sum[c] = AddVector<T>(low, high, tail.low, tail.high, tail.first, hn::TableLookupLanes(scale, index[0]),
                                      sum[c]);
                if (T::kMinima) {
                    minima[c] = hn::MulAdd(LowHalves(hn::ShiftRight<16>(heads)), hn::Load(d, tail.offsets), minima[c]);
                }
            }
        }
        ATLAS_UNROLL
        for (size_t c = 0; c < C; ++c) {
            if (T::kMinima) sum[c] = hn::Add(sum[c], minima[c]);
        }
    };
    // Rows of a part that is no multiple of four are summed in the same order.
    for (int64_t r = args.begin; r < args.end; r += 4) {
        const auto count = static_cast<size_t>(HWY_MIN(args.end - r, int64_t{4}));
        V sums[C][4];
        ATLAS_UNROLL
        for (size_t c = 0; c < C; ++c) sums[c][1] = sums[c][2] = sums[c][3] = hn::Zero(d);
        for (size_t i = 0; i < count; ++i) {
            V sum[C];
            row_sums(args.row(r + static_cast<int64_t>(i)), sum);
            ATLAS_UNROLL
            for (size_t c = 0; c < C; ++c) sums[c][i] = sum[c];
        }
        ATLAS_UNROLL
        for (size_t c = 0; c < C; ++c) {
            float four[4];
            StoreSums(sums[c], count == 4 ? columns.of.out[c] + r : four);
            if (count < 4) std::memcpy(columns.of.out[c] + r, four, count * sizeof(float));
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
