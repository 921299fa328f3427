#include "kernels/cpu/weights/panel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/weights/panel_32.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "kernels/cpu/weights/panel-inl.h"
#include "kernels/cpu/weights/unpack-inl.h"

// Blocks of 32: types are described at their decoders in reference/weights.cpp.

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {

constexpr size_t kBlocks = 8;

/** Types whose blocks begin with an f16 scale and end with 16 bytes of nibbles. */
template <size_t kBytes, bool kFifth, bool kHasMinima, bool kLevels>
struct UnpackNibbles {
    static constexpr size_t kSub = 32;
    static constexpr bool kMinima = kHasMinima;
    static HWY_INLINE void Row(const uint8_t* block, size_t elements, uint8_t* codes, float* scales, float* minima) {
        uint16_t scale_bits[kBlocks] = {};
        uint16_t minimum_bits[kBlocks] = {};
        for (size_t b = 0; b < elements / 32; ++b, block += kBytes) {
            scale_bits[b] = WordAt(block);
            if (kMinima) minimum_bits[b] = WordAt(block + 2);
            const V8 nibbles = hn::LoadU(D8(), block + kBytes - 16);
            V8 low = LowNibbles(nibbles), high = HighNibbles(nibbles);
            if (kFifth) {
                const uint32_t fifth = Word32At(block + kBytes - 20);
                low = hn::Or(low, SixteenBits(fifth));
                high = hn::Or(high, SixteenBits(fifth >> 16));
            }
            if (kLevels) {
                const V8 levels = hn::Load(D8(), kBytesIQ4.data());
                low = hn::TableLookupBytes(levels, low);
                high = hn::TableLookupBytes(levels, high);
            }
            hn::StoreU(low, D8(), codes + 32 * b);
            hn::StoreU(high, D8(), codes + 32 * b + 16);
        }
        WidenHalves<kBlocks>(scale_bits, scales);
        if (kMinima) WidenHalves<kBlocks>(minimum_bits, minima);
    }
};

struct UnpackQ8_0 {
    static constexpr size_t kSub = 32;
    static constexpr bool kMinima = false;
    static HWY_INLINE void Row(const uint8_t* block, size_t elements, uint8_t* codes, float* scales, float*) {
        uint16_t bits[kBlocks] = {};
        const V8 sign = hn::Set(D8(), uint8_t{128});
        for (size_t b = 0; b < elements / 32; ++b, block += 34) {
            bits[b] = WordAt(block);
            hn::StoreU(hn::Xor(hn::LoadU(D8(), block + 2), sign), D8(), codes + 32 * b);
            hn::StoreU(hn::Xor(hn::LoadU(D8(), block + 18), sign), D8(), codes + 32 * b + 16);
        }
        WidenHalves<kBlocks>(bits, scales);
    }
};

struct UnpackMXFP4 {
    static constexpr size_t kSub = 32;
    static constexpr bool kMinima = false;
    static HWY_INLINE void Row(const uint8_t* block, size_t elements, uint8_t* codes, float* scales, float*) {
        std::memset(scales, 0, 8 * sizeof(float));
        const V8 levels = hn::Load(D8(), kBytesFP4.data());
        for (size_t b = 0; b < elements / 32; ++b, block += 17) {
            // 2^(e − 128); the two smallest are subnormal.
            const uint32_t bits = block[0] < 2 ? 0x00200000u << block[0] : (block[0] - 1u) << 23;
            std::memcpy(scales + b, &bits, sizeof bits);
            const V8 nibbles = hn::LoadU(D8(), block + 1);
            hn::StoreU(hn::TableLookupBytes(levels, LowNibbles(nibbles)), D8(), codes + 32 * b);
            hn::StoreU(hn::TableLookupBytes(levels, HighNibbles(nibbles)), D8(), codes + 32 * b + 16);
        }
    }
};

void FillPanel32(const RowBlocks& rows, Panel* panel) {
    switch (rows.type) {
        case WeightType::kQ8_0:
            return FillPanel<UnpackQ8_0>(rows, panel);
        case WeightType::kQ4_0:
            return FillPanel<UnpackNibbles<18, false, false, false>>(rows, panel);
        case WeightType::kQ4_1:
            return FillPanel<UnpackNibbles<20, false, true, false>>(rows, panel);
        case WeightType::kQ5_0:
            return FillPanel<UnpackNibbles<22, true, false, false>>(rows, panel);
        case WeightType::kQ5_1:
            return FillPanel<UnpackNibbles<24, true, true, false>>(rows, panel);
        case WeightType::kIQ4_NL:
            return FillPanel<UnpackNibbles<18, false, false, true>>(rows, panel);
        default:
            return FillPanel<UnpackMXFP4>(rows, panel);
    }
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {
HWY_EXPORT(FillPanel32);
void fill_panel_32(const RowBlocks& rows, Panel* panel) { HWY_DYNAMIC_DISPATCH(FillPanel32)(rows, panel); }
}  // namespace atlas::kernels::cpu
#endif
