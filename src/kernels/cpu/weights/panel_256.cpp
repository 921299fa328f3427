#include "kernels/cpu/weights/panel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/weights/panel_256.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "kernels/cpu/weights/panel-inl.h"
#include "kernels/cpu/weights/unpack-inl.h"

// Blocks of 256: types are described at their decoders in reference/weights.cpp. Each has its codes in the order of k (Codes), and the whole
// numbers that its scales are (Numbers), once per 16 elements.

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {

template <class Type>
struct Block256 {
    static HWY_INLINE void Row(const uint8_t* block, size_t, uint8_t* codes, float* scales, float* minima) {
        constexpr size_t kSubs = 256 / Type::kSub;
        HWY_ALIGN int8_t scale_numbers[16];
        HWY_ALIGN int8_t minimum_numbers[16];
        Type::Numbers(block, scale_numbers, minimum_numbers);
        WidenBytes<kSubs>(scale_numbers, Type::Scale(block), scales);
        if (Type::kMinima) WidenBytes<kSubs>(minimum_numbers, -Type::Minimum(block), minima);
        Type::Codes(block, codes);
    }

private:
    friend Type;
    Block256() = default;
};

/** q4_K, and with fifth bits q5_K. */
template <bool kFifth>
struct UnpackK4 : Block256<UnpackK4<kFifth>> {
    static constexpr size_t kSub = 32;
    static constexpr bool kMinima = true;
    static constexpr int kOffset = 0;
    static HWY_INLINE float Scale(const uint8_t* block) { return HalfAt(block); }
    static HWY_INLINE float Minimum(const uint8_t* block) { return HalfAt(block + 2); }
    static HWY_INLINE void Numbers(const uint8_t* block, int8_t* scales, int8_t* minima) {
        UnpackScalesK4(block + 4, reinterpret_cast<uint8_t*>(scales), reinterpret_cast<uint8_t*>(minima));
    }
    static HWY_INLINE void Codes(const uint8_t* block, uint8_t* codes) {
        const uint8_t* quants = block + (kFifth ? 48 : 16);
        for (size_t i = 0; i < 32; i += 16) {
            const V8 fifth = kFifth ? hn::LoadU(D8(), block + 16 + i) : hn::Zero(D8());
            for (size_t g = 0; g < 4; ++g) {
                const V8 nibbles = hn::LoadU(D8(), quants + 32 * g + i);
                V8 low = LowNibbles(nibbles), high = HighNibbles(nibbles);
                if (kFifth) {
                    low = hn::Or(low, BitTo(fifth, static_cast<uint8_t>(1 << 2 * g), 16));
                    high = hn::Or(high, BitTo(fifth, static_cast<uint8_t>(2 << 2 * g), 16));
                }
                hn::StoreU(low, D8(), codes + 64 * g + i);
                hn::StoreU(high, D8(), codes + 64 * g + 32 + i);
            }
        }
    }
};

struct UnpackQ6_K : Block256<UnpackQ6_K> {
    static constexpr size_t kSub = 16;
    static constexpr bool kMinima = false;
    static constexpr int kOffset = 32;
    static HWY_INLINE float Scale(const uint8_t* block) { return HalfAt(block + 208); }
    static HWY_INLINE float Minimum(const uint8_t*) { return 0.0f; }
    static HWY_INLINE void Numbers(const uint8_t* block, int8_t* scales, int8_t*) {
        std::memcpy(scales, block + 192, 16);
    }
    static HWY_INLINE void Codes(const uint8_t* block, uint8_t* codes) {
        for (size_t half = 0; half < 2; ++half, codes += 128) {
            for (size_t i = 0; i < 32; i += 16) {
                const V8 a = hn::LoadU(D8(), block + 64 * half + i);
                const V8 b = hn::LoadU(D8(), block + 64 * half + 32 + i);
                const V8 upper = hn::LoadU(D8(), block + 128 + 32 * half + i);
                hn::StoreU(hn::Or(LowNibbles(a), hn::ShiftLeft<4>(TwoBits<0>(upper))), D8(), codes + i);
                hn::StoreU(hn::Or(LowNibbles(b), hn::ShiftLeft<4>(TwoBits<2>(upper))), D8(), codes + 32 + i);
                hn::StoreU(hn::Or(HighNibbles(a), hn::ShiftLeft<4>(TwoBits<4>(upper))), D8(), codes + 64 + i);
                hn::StoreU(hn::Or(HighNibbles(b), hn::ShiftLeft<4>(TwoBits<6>(upper))), D8(), codes + 96 + i);
            }
        }
    }
};

struct UnpackQ2_K : Block256<UnpackQ2_K> {
    static constexpr size_t kSub = 16;
    static constexpr bool kMinima = true;
    static constexpr int kOffset = 0;
    static HWY_INLINE float Scale(const uint8_t* block) { return HalfAt(block + 80); }
    static HWY_INLINE float Minimum(const uint8_t* block) { return HalfAt(block + 82); }
    static HWY_INLINE void Numbers(const uint8_t* block, int8_t* scales, int8_t* minima) {
        const V8 both = hn::LoadU(D8(), block);
        hn::StoreU(LowNibbles(both), D8(), reinterpret_cast<uint8_t*>(scales));
        hn::StoreU(HighNibbles(both), D8(), reinterpret_cast<uint8_t*>(minima));
    }
    static HWY_INLINE void Codes(const uint8_t* block, uint8_t* codes) {
        for (size_t half = 0; half < 2; ++half, codes += 128) {
            for (size_t i = 0; i < 32; i += 16) {
                const V8 two = hn::LoadU(D8(), block + 16 + 32 * half + i);
                hn::StoreU(TwoBits<0>(two), D8(), codes + i);
                hn::StoreU(TwoBits<2>(two), D8(), codes + 32 + i);
                hn::StoreU(TwoBits<4>(two), D8(), codes + 64 + i);
                hn::StoreU(TwoBits<6>(two), D8(), codes + 96 + i);
            }
        }
    }
};

struct UnpackQ3_K : Block256<UnpackQ3_K> {
    static constexpr size_t kSub = 16;
    static constexpr bool kMinima = false;
    static constexpr int kOffset = 4;
    static HWY_INLINE float Scale(const uint8_t* block) { return HalfAt(block + 108); }
    static HWY_INLINE float Minimum(const uint8_t*) { return 0.0f; }
    static HWY_INLINE void Numbers(const uint8_t* block, int8_t* scales, int8_t*) {
        UnpackScalesQ3(block + 96, scales);
    }
    static HWY_INLINE void Codes(const uint8_t* block, uint8_t* codes) {
        for (size_t half = 0; half < 2; ++half, codes += 128) {
            for (size_t i = 0; i < 32; i += 16) {
                const V8 two = hn::LoadU(D8(), block + 32 + 32 * half + i);
                const V8 third = hn::LoadU(D8(), block + i);
                const auto bit = [half](size_t j) { return static_cast<uint8_t>(1 << (4 * half + j)); };
                hn::StoreU(hn::Or(TwoBits<0>(two), BitTo(third, bit(0), 4)), D8(), codes + i);
                hn::StoreU(hn::Or(TwoBits<2>(two), BitTo(third, bit(1), 4)), D8(), codes + 32 + i);
                hn::StoreU(hn::Or(TwoBits<4>(two), BitTo(third, bit(2), 4)), D8(), codes + 64 + i);
                hn::StoreU(hn::Or(TwoBits<6>(two), BitTo(third, bit(3), 4)), D8(), codes + 96 + i);
            }
        }
    }
};

struct UnpackIQ4_XS : Block256<UnpackIQ4_XS> {
    static constexpr size_t kSub = 32;
    static constexpr bool kMinima = false;
    static constexpr int kOffset = 128;
    static HWY_INLINE float Scale(const uint8_t* block) { return HalfAt(block); }
    static HWY_INLINE float Minimum(const uint8_t*) { return 0.0f; }
    static HWY_INLINE void Numbers(const uint8_t* block, int8_t* scales, int8_t*) { UnpackScalesIQ4(block, scales); }
    static HWY_INLINE void Codes(const uint8_t* block, uint8_t* codes) {
        const V8 levels = hn::Load(D8(), kLevelsIQ4);
        for (size_t b = 0; b < 8; ++b) {
            const V8 nibbles = hn::LoadU(D8(), block + 8 + 16 * b);
            hn::StoreU(hn::TableLookupBytes(levels, LowNibbles(nibbles)), D8(), codes + 32 * b);
            hn::StoreU(hn::TableLookupBytes(levels, HighNibbles(nibbles)), D8(), codes + 32 * b + 16);
        }
    }
};

/** scale number · (code − offset), in one byte or in two: 64 · high + low. */
template <class Type, bool kTwo>
HWY_NOINLINE void FillWhole(const RowBlocks& rows, WholePanel* panel) {
    constexpr size_t kStride = static_cast<size_t>(kPanelDepth) + 64;
    alignas(64) uint8_t high[kPanelRows * kStride];
    alignas(64) uint8_t low[kPanelRows * kStride];
    using D16 = hn::CappedTag<int16_t, 32>;
    const D16 d16;
    const hn::Rebind<uint8_t, D16> d8;
    const hn::Rebind<int8_t, D16> di8;
    constexpr size_t kLanes = HWY_MIN(hn::MaxLanes(D16()), size_t{32});
    if (Type::kMinima) {
        std::memset(panel->before, 0, sizeof panel->before);
        std::memset(panel->behind, 0, sizeof panel->behind);
    }
    for (size_t r = 0; r < kPanelRows; ++r) {
        uint8_t* to_high = high + r * kStride;
        uint8_t* to_low = low + r * kStride;
        if (r >= rows.rows) {
            std::memset(to_high, 0, 256);
            std::memset(to_low, 0, 256);
            panel->scale[r] = panel->minimum[r] = 0.0f;
            for (auto& four : panel->minima) std::memset(four[r], 0, 4);
            continue;
        }
        const uint8_t* block = rows.data + r * rows.stride;
        alignas(64) uint8_t codes[256];
        HWY_ALIGN int8_t scales[16];
        HWY_ALIGN int8_t minima[16];
        Type::Codes(block, codes);
        Type::Numbers(block, scales, minima);
        panel->scale[r] = kTwo ? Type::Scale(block) : -Type::Scale(block);
        panel->minimum[r] = Type::Minimum(block);
        if (Type::kMinima) {
            for (size_t i = 0; i < 16; ++i) panel->minima[i / 4][r][i % 4] = minima[Type::kSub == 32 ? i / 2 : i];
        }
        for (size_t i = 0; i < 256; i += kLanes) {
            auto scale = hn::Set(d16, scales[i / Type::kSub]);
            if constexpr (Type::kSub == 16 && kLanes == 32)
                scale = hn::ConcatLowerLower(d16, hn::Set(d16, scales[i / 16 + 1]), scale);
            const auto code = hn::Sub(hn::PromoteTo(d16, hn::LoadU(d8, codes + i)), hn::Set(d16, Type::kOffset));
            auto value = hn::Mul(code, scale);
            // Negated, sums of one byte reach −128 and not 128 (q3_K).
            if (!kTwo) value = hn::Neg(value);
            if (kTwo) hn::StoreU(hn::BitCast(d8, hn::DemoteTo(di8, hn::ShiftRight<6>(value))), d8, to_high + i);
            const auto part = kTwo ? hn::And(value, hn::Set(d16, 63)) : value;
            hn::StoreU(hn::BitCast(d8, hn::DemoteTo(di8, part)), d8, to_low + i);
        }
    }
    const auto turn = [](const uint8_t* from, int8_t (*to)[kPanelRows][4]) HWY_ATTR {
        TurnWords(reinterpret_cast<const uint32_t*>(from), kStride / 4, kPanelDepth / 4,
                  reinterpret_cast<uint32_t*>(to), 0);
    };
    if (kTwo) turn(high, panel->high);
    turn(low, panel->low);
}

void FillWholePanel(const RowBlocks& rows, WholePanel* panel) {
    switch (rows.type) {
        case WeightType::kQ4_K:
            return FillWhole<UnpackK4<false>, true>(rows, panel);
        case WeightType::kQ5_K:
            return FillWhole<UnpackK4<true>, true>(rows, panel);
        case WeightType::kQ6_K:
            return FillWhole<UnpackQ6_K, true>(rows, panel);
        case WeightType::kQ2_K:
            return FillWhole<UnpackQ2_K, false>(rows, panel);
        case WeightType::kQ3_K:
            return FillWhole<UnpackQ3_K, false>(rows, panel);
        default:
            return FillWhole<UnpackIQ4_XS, true>(rows, panel);
    }
}

void FillPanel256(const RowBlocks& rows, Panel* panel) {
    switch (rows.type) {
        case WeightType::kQ4_K:
            return FillPanel<UnpackK4<false>>(rows, panel);
        case WeightType::kQ5_K:
            return FillPanel<UnpackK4<true>>(rows, panel);
        case WeightType::kQ6_K:
            return FillPanel<UnpackQ6_K>(rows, panel);
        case WeightType::kQ2_K:
            return FillPanel<UnpackQ2_K>(rows, panel);
        case WeightType::kQ3_K:
            return FillPanel<UnpackQ3_K>(rows, panel);
        default:
            return FillPanel<UnpackIQ4_XS>(rows, panel);
    }
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {
HWY_EXPORT(FillPanel256);
HWY_EXPORT(FillWholePanel);
void fill_whole_panel(const RowBlocks& rows, WholePanel* panel) { HWY_DYNAMIC_DISPATCH(FillWholePanel)(rows, panel); }
void fill_panel_256(const RowBlocks& rows, Panel* panel) { HWY_DYNAMIC_DISPATCH(FillPanel256)(rows, panel); }
}  // namespace atlas::kernels::cpu
#endif
