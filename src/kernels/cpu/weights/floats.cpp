#include <algorithm>
#include <cstring>

#include "kernels/cpu/vectors.h"
#include "kernels/cpu/weights/panel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/weights/floats.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "kernels/cpu/weights/e4m3-inl.h"
#include "kernels/cpu/weights/pairs-inl.h"
#include "kernels/cpu/weights/panel-inl.h"

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;
using DU = hn::Rebind<uint32_t, D>;
using VU = hn::Vec<DU>;

constexpr size_t kColumns = HWY_MAX_BYTES >= 64 || HWY_TARGET == HWY_NEON || HWY_TARGET == HWY_NEON_BF16 ? 8 : 4;
/** 32-bit words of a row per panel: one f32, or two bf16. */
constexpr size_t kWords = 128;

struct alignas(64) WordPanel {
    uint32_t words[kWords][kPanelRows];
};

/** Weights and activations are f32. */
struct Singles {
    static constexpr size_t kPerWord = 1;
    static HWY_INLINE V Dot(VU w, VU a, V sum) { return hn::MulAdd(hn::BitCast(D(), w), hn::BitCast(D(), a), sum); }
};
/** Pairs of bf16; products and sums in f32. */
struct Pairs {
    static constexpr size_t kPerWord = 2;
    static HWY_INLINE V Dot(VU w, VU a, V sum) { return DotPairs(D(), w, a, sum); }
};

struct Column {
    const uint32_t* words;
    float* out;
};

template <class K, size_t C>
HWY_NOINLINE void Block(const WordPanel& panel, size_t words, const Column* HWY_RESTRICT columns, size_t rows,
                        bool overwrite) {
    const D d;
    const DU du;
    const size_t lanes = hn::Lanes(d);
    for (size_t v = 0; v < rows; v += 2 * lanes) {
        V total[C][2];
        ATLAS_UNROLL
        for (size_t c = 0; c < C; ++c) total[c][0] = total[c][1] = hn::Zero(d);
        for (size_t i = 0; i < words; ++i) {
            const VU w0 = hn::Load(du, panel.words[i] + v);
            const VU w1 = hn::Load(du, panel.words[i] + v + lanes);
            ATLAS_UNROLL
            for (size_t c = 0; c < C; ++c) {
                const VU a = hn::Set(du, columns[c].words[i]);
                total[c][0] = K::Dot(w0, a, total[c][0]);
                total[c][1] = K::Dot(w1, a, total[c][1]);
            }
        }
        ATLAS_UNROLL
        for (size_t c = 0; c < C; ++c) {
            ATLAS_UNROLL
            for (size_t h = 0; h < 2; ++h) {
                const size_t at = v + h * lanes;
                if (at >= rows) break;
                const size_t left = std::min(lanes, rows - at);
                float* out = columns[c].out + at;
                V value = total[c][h];
                if (!overwrite) value = hn::Add(value, hn::LoadN(d, out, left));
                hn::StoreN(value, d, out, left);
            }
        }
    }
}

template <class K, size_t C>
HWY_INLINE void Blocks(size_t count, const WordPanel& panel, size_t words, const Column* columns, size_t rows,
                       bool overwrite) {
    if (count == C) {
        Block<K, C>(panel, words, columns, rows, overwrite);
    } else if constexpr (C > 1) {
        Blocks<K, C - 1>(count, panel, words, columns, rows, overwrite);
    }
}

/** To the nearest bf16, ties to even, in the upper half and zeros below; of numbers that are finite or infinite. */
HWY_INLINE VU RoundToBf16(VU bits) {
    const DU du;
    const VU odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
    return hn::And(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFF))), hn::Set(du, 0xFFFF0000u));
}

/** n numbers of a row as words of a panel, zeros up to a multiple of four words. */
HWY_INLINE void RowWords(WeightType type, const uint8_t* from, size_t n, uint32_t* HWY_RESTRICT words) {
    if (type == WeightType::kF16) {
        const D d;
        const hn::Rebind<hwy::float16_t, D> half;
        const size_t lanes = hn::Lanes(d);
        auto* to = reinterpret_cast<float*>(words);
        const auto* halves = reinterpret_cast<const hwy::float16_t*>(from);
        size_t i = 0;
        for (; i + lanes <= n; i += lanes) hn::StoreU(hn::PromoteTo(d, hn::LoadU(half, halves + i)), d, to + i);
        for (; i < n; i += lanes) {
            const size_t left = std::min(lanes, n - i);
            hn::StoreU(hn::PromoteTo(d, hn::LoadN(half, halves + i, left)), d, to + i);
        }
        return;
    }
    if (type == WeightType::kE4M3) return UnpackE4M3(from, n, reinterpret_cast<uint16_t*>(words));
    const size_t bytes = n * (type == WeightType::kF32 ? 4 : 2);
    const size_t padded = (bytes + 15) / 16 * 16;
    std::memcpy(words, from, bytes);
    std::memset(reinterpret_cast<uint8_t*>(words) + bytes, 0, padded - bytes);
}

/** n numbers of f16, n at most 256, as the sums of two bf16; zeros up to a multiple of 32. */
HWY_INLINE void SplitRow(const uint8_t* from, size_t n, uint16_t* HWY_RESTRICT high, uint16_t* HWY_RESTRICT low) {
    const D d;
    const DU du;
    const hn::Rebind<uint16_t, D> d16;
    const hn::Rebind<hwy::float16_t, D> half;
    const size_t lanes = hn::Lanes(d);
    const auto* halves = reinterpret_cast<const hwy::float16_t*>(from);
    for (size_t i = 0; i < (n + 31) / 32 * 32; i += lanes) {
        const V x = hn::PromoteTo(d, i + lanes <= n ? hn::LoadU(half, halves + i)
                                     : i < n        ? hn::LoadN(half, halves + i, n - i)
                                                    : hn::Zero(half));
        const VU upper = RoundToBf16(hn::BitCast(du, x));
        // Exact, and a bf16 itself: 11 bits are 8 and a sign and 3.
        const V rest = hn::IfThenElseZero(hn::IsFinite(x), hn::Sub(x, hn::BitCast(d, upper)));
        hn::StoreU(hn::TruncateTo(d16, hn::ShiftRight<16>(upper)), d16, high + i);
        hn::StoreU(hn::TruncateTo(d16, hn::ShiftRight<16>(hn::BitCast(du, rest))), d16, low + i);
    }
}

void FillPairPanels(const RowBlocks& rows, PairPanel* high, PairPanel* low) {
    constexpr size_t kStride = static_cast<size_t>(kPanelDepth) / 2 + 16;
    alignas(64) uint32_t high_words[kPanelRows * kStride];
    alignas(64) uint32_t low_words[kPanelRows * kStride];
    const bool split = rows.type == WeightType::kF16;
    const size_t padded = (rows.elements + 31) / 32 * 32;
    for (size_t r = 0; r < kPanelRows; ++r) {
        uint32_t* to = high_words + r * kStride;
        uint32_t* to_low = low_words + r * kStride;
        const uint8_t* from = rows.data + r * rows.stride;
        if (r >= rows.rows) {
            std::memset(to, 0, 2 * padded);
            if (split) std::memset(to_low, 0, 2 * padded);
        } else if (split) {
            SplitRow(from, rows.elements, reinterpret_cast<uint16_t*>(to), reinterpret_cast<uint16_t*>(to_low));
        } else if (rows.type == WeightType::kE4M3) {
            UnpackE4M3(from, rows.elements, reinterpret_cast<uint16_t*>(to));
        } else {
            std::memcpy(to, from, 2 * rows.elements);
            std::memset(reinterpret_cast<uint16_t*>(to) + rows.elements, 0, 2 * (padded - rows.elements));
        }
    }
    TurnWords(high_words, kStride, padded / 2, high->words[0], 0);
    if (split) TurnWords(low_words, kStride, padded / 2, low->words[0], 0);
}

template <class K>
void Multiply(const WeightProduct& product, int64_t begin, int64_t end) {
    const WeightMatrix& w = product.weights;
    const WeightTypeInfo& info = weight_type_info(w.type);
    const ActivationLayout layout(info.activations, w.cols);
    constexpr size_t kStride = kWords + 16;
    alignas(64) uint32_t rows_of_words[kPanelRows * kStride];
    WordPanel panel;
    for (int64_t r = begin; r < end; r += kWeightPanel) {
        const auto rows = static_cast<size_t>(std::min(kWeightPanel, end - r));
        constexpr auto kDepth = static_cast<int64_t>(kWords * K::kPerWord);
        for (int64_t at = 0; at < w.cols; at += kDepth) {
            const auto elements = static_cast<size_t>(std::min(kDepth, w.cols - at));
            const size_t words = (elements + K::kPerWord - 1) / K::kPerWord;
            const auto* data = reinterpret_cast<const uint8_t*>(w.data) + static_cast<size_t>(r) * w.row_stride +
                               weight_row_bytes(w.type, at);
            for (size_t i = 0; i < kPanelRows; ++i) {
                uint32_t* to = rows_of_words + i * kStride;
                if (i < rows) {
                    RowWords(w.type, data + i * w.row_stride, elements, to);
                } else {
                    std::memset(to, 0, kWords * sizeof(uint32_t));
                }
            }
            TurnWords(rows_of_words, kStride, (words + 3) / 4 * 4, panel.words[0], 0);
            Column columns[kColumns];
            for (int64_t j = 0; j < product.n; j += static_cast<int64_t>(kColumns)) {
                const size_t count = std::min(kColumns, static_cast<size_t>(product.n - j));
                for (size_t c = 0; c < count; ++c) {
                    const ColumnPair pair = column_pair(product, j + static_cast<int64_t>(c));
                    const std::byte* values =
                        product.activations + static_cast<size_t>(pair.in) * layout.bytes + layout.values;
                    columns[c] = {reinterpret_cast<const uint32_t*>(values) + static_cast<size_t>(at) / K::kPerWord,
                                  product.out + static_cast<size_t>(pair.out) * product.out_stride + r};
                }
                Blocks<K, kColumns>(count, panel, words, columns, rows, at == 0);
            }
        }
    }
}

void MultiplyFloats(const WeightProduct& product, int64_t begin, int64_t end) {
    is_pairs(product.weights.type) ? Multiply<Pairs>(product, begin, end) : Multiply<Singles>(product, begin, end);
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {
HWY_EXPORT(MultiplyFloats);
HWY_EXPORT(FillPairPanels);
void fill_pair_panels(const RowBlocks& rows, PairPanel* high, PairPanel* low) {
    HWY_DYNAMIC_DISPATCH(FillPairPanels)(rows, high, low);
}
void multiply_floats(const WeightProduct& product, int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(MultiplyFloats)(product, begin, end);
}
}  // namespace atlas::kernels::cpu
#endif
