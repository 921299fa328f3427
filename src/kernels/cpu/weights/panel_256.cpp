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
    static HWY_INLINE float Scale(const uint8_t* block) { return HalfAt(block); }
    static HWY_INLINE float Minimum(const uint8_t*) { return 0.0f; }
    static HWY_INLINE void Numbers(const uint8_t* block, int8_t* scales, int8_t*) { UnpackScalesIQ4(block, scales); }
    static HWY_INLINE void Codes(const uint8_t* block, uint8_t* codes) {
        const V8 levels = hn::Load(D8(), kBytesIQ4.data());
        for (size_t b = 0; b < 8; ++b) {
            const V8 nibbles = hn::LoadU(D8(), block + 8 + 16 * b);
            hn::StoreU(hn::TableLookupBytes(levels, LowNibbles(nibbles)), D8(), codes + 32 * b);
            hn::StoreU(hn::TableLookupBytes(levels, HighNibbles(nibbles)), D8(), codes + 32 * b + 16);
        }
    }
};

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
void fill_panel_256(const RowBlocks& rows, Panel* panel) { HWY_DYNAMIC_DISPATCH(FillPanel256)(rows, panel); }
}  // namespace atlas::kernels::cpu
#endif
