#include <algorithm>
#include <bit>
#include <cmath>

#include "base/vector_loop.h"
#include "kernels/e4m3.h"
#include "weights/encode.h"
#include "weights/encode_fit.h"

namespace atlas::weights {
namespace {

using kernels::kE4M3Block;

constexpr int kFloatBias = 127, kCodeBias = 7;
constexpr int kDroppedBits = 20;  // of a float's fraction
constexpr int32_t kLeastCode = 8, kMostCode = 126;
constexpr float kLeast = 0x1p-6f;
// Halfway between the largest number, 448, and what would come after it; nearer to that would be NaN.
constexpr float kMost = 464.0f;

/** The power of two by which the largest of a block becomes 448 at most; finer scales would gain nothing: steps are relative. */
int scale_exponent(float most) {
    if (most == 0.0f) return kernels::kE4M3LeastScale;
    const int exponent = std::ilogb(most) - std::ilogb(kMost);
    const bool fits = std::ldexp(most, -exponent) <= kMost;
    return std::clamp(kFloatBias + exponent + (fits ? 0 : 1), kernels::kE4M3LeastScale, kernels::kE4M3MostScale);
}

}  // namespace

void encode_e4m3(const float* x, uint8_t* out) {
    float most = 0.0f;
    for (size_t i = 0; i < kE4M3Block; ++i) most = std::max(most, std::fabs(x[i]));
    const int scale = scale_exponent(most);
    const float factor = std::ldexp(1.0f, kFloatBias - scale);
    uint8_t codes[kE4M3Block];
    ATLAS_VECTOR_LOOP
    for (size_t i = 0; i < kE4M3Block; ++i) {
        const float value = x[i] * factor;
        const auto bits = std::bit_cast<int32_t>(value);
        const int32_t size = bits & 0x7FFFFFFF;
        // To nearest, ties to even; what is below the least number becomes that or 0.
        const int32_t rounded = (size + 0x7FFFF + (size >> kDroppedBits & 1)) >> kDroppedBits;
        const int32_t code = std::min(rounded - ((kFloatBias - kCodeBias) << 3), kMostCode);
        const int32_t small = size >= std::bit_cast<int32_t>(kLeast / 2) ? kLeastCode : 0;
        codes[i] = static_cast<uint8_t>((code < kLeastCode ? small : code) | (bits < 0 ? 0x80 : 0));
    }
    out[0] = static_cast<uint8_t>(scale);
    for (size_t i = 0; i < kE4M3Block / 2; ++i) {
        out[1 + 2 * i] = codes[i];
        out[2 + 2 * i] = codes[kE4M3Block / 2 + i];
    }
}

void decode_e4m3(const std::byte* row, int64_t cols, float* out) {
    const auto* block = reinterpret_cast<const uint8_t*>(row);
    for (int64_t b = 0; b < cols / static_cast<int64_t>(kE4M3Block); ++b, block += kernels::kE4M3BlockBytes) {
        const float scale = std::ldexp(1.0f, block[0] - kFloatBias);
        for (size_t i = 0; i < kE4M3Block; ++i) {
            const uint32_t code = block[1 + i % 32 * 2 + i / 32];
            const uint32_t size =
                (code & 127) == 0 ? 0 : ((code & 127) << kDroppedBits) + (uint32_t{kFloatBias - kCodeBias} << 23);
            *out++ = scale * std::bit_cast<float>(size | (code & 128) << 24);
        }
    }
}

}  // namespace atlas::weights
