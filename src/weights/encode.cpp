#include "weights/encode.h"

#include <array>
#include <cstring>

#include "base/vector_loop.h"
#include "kernels/levels.h"
#include "weights/encode_fit.h"

namespace atlas::weights {
namespace {

using kernels::WeightType;

constexpr size_t kBlock = 32;
constexpr size_t kBlockK = 256;

/** Levels of iq4_nl. */
struct UnevenLevels {
    static constexpr const int8_t (&kLevels)[16] = kernels::kLevelsIQ4;
    static constexpr float middle(int i) { return 0.5f * static_cast<float>(kLevels[i] + kLevels[i + 1]); }
    float operator()(float v) const {
        return kTable[static_cast<size_t>(std::min(std::max(2.0f * v + 256.0f, 0.0f), 511.0f))];
    }
    /** The level nearest to v where 2v + 256 is i … i + 1: middles are multiples of a half. */
    static const std::array<float, 512> kTable;
    static uint8_t code(float v) {
        int code = 0;
        for (int i = 0; i < 15; ++i) code += v > middle(i);
        return static_cast<uint8_t>(code);
    }
};

constexpr std::array<float, 512> make_table() {
    std::array<float, 512> table{};
    for (int i = 0; i < 512; ++i) {
        int code = 0;
        while (code < 15 && 0.5f * static_cast<float>(i - 256) >= UnevenLevels::middle(code)) ++code;
        table[static_cast<size_t>(i)] = UnevenLevels::kLevels[code];
    }
    return table;
}
constexpr std::array<float, 512> UnevenLevels::kTable = make_table();

void put_nibbles(const uint8_t* codes, uint8_t* to) {
    for (size_t i = 0; i < 16; ++i) to[i] = static_cast<uint8_t>((codes[i] & 15) | (codes[i + 16] & 15) << 4);
}

void put_fifth_bits(const uint8_t* codes, uint8_t* to) {
    uint32_t bits = 0;
    for (size_t i = 0; i < kBlock; ++i) bits |= static_cast<uint32_t>(codes[i] >> 4) << i;
    for (size_t i = 0; i < 4; ++i) to[i] = static_cast<uint8_t>(bits >> (8 * i));
}

float of_largest_size(const float* x) {
    float least = x[0], most = x[0];
    for (size_t i = 1; i < kBlock; ++i) least = std::min(least, x[i]), most = std::max(most, x[i]);
    return -least > most ? least : most;
}

/** q5_1: f16 d, f16 m, fifth bits, nibbles. */
void encode_line(const float* x, uint8_t* out) {
    const EvenLevels levels{0.0f, 31.0f};
    float w[kBlock];
    uint8_t codes[kBlock];
    Line line;
    if (count_errors(x, kBlock, w)) {
        float least = x[0], most = x[0];
        for (size_t i = 1; i < kBlock; ++i) least = std::min(least, x[i]), most = std::max(most, x[i]);
        line = fit_line<kBlock>({x, w}, levels, least, most, false, {-1.0f, 0.25f, 13});
        line = {half_scale(line.scale), rounded_to_half(line.offset)};
    }
    write_codes<kBlock>(x, levels, line, codes);
    put_half(out, line.scale);
    put_half(out + 2, line.offset);
    put_fifth_bits(codes, out + 4);
    put_nibbles(codes, out + 8);
}

/** iq4_nl: f16 d, nibbles. */
void encode_uneven(const float* x, uint8_t* out) {
    float w[kBlock];
    uint8_t codes[kBlock];
    float scale = 0.0f;
    if (count_errors(x, kBlock, w)) {
        const float most = of_largest_size(x);
        scale = half_scale(fit_scale<kBlock>({x, w}, UnevenLevels{}, most, {{-151.0f, 3.0f, 19}, {97.0f, 3.0f, 15}}));
    }
    const float inverse = inverse_of(scale);
    for (size_t i = 0; i < kBlock; ++i) codes[i] = UnevenLevels::code(x[i] * inverse);
    put_half(out, scale);
    put_nibbles(codes, out + 2);
}

/** Finite, and within f16. */
void clean(const float* from, size_t n, float* to) {
    for (size_t i = 0; i < n; ++i) {
        const float x = std::isfinite(from[i]) ? from[i] : 0.0f;
        to[i] = std::min(std::max(x, -65504.0f), 65504.0f);
    }
}

using EncodeBlock = void (*)(const float* x, uint8_t* out);

EncodeBlock encoder_of(WeightType to) {
    switch (to) {
        case WeightType::kQ8_0:
            return [](const float* x, uint8_t* out) { kernels::encode_row(DataType::kQ8_0, x, out, kBlock); };
        case WeightType::kQ5_1:
            return encode_line;
        case WeightType::kIQ4_NL:
            return encode_uneven;
        case WeightType::kE4M3:
            return encode_e4m3;
        case WeightType::kQ4_K:
            return encode_q4_K;
        case WeightType::kQ5_K:
            return encode_q5_K;
        case WeightType::kQ6_K:
            return encode_q6_K;
        default:
            return nullptr;
    }
}

}  // namespace

bool count_errors(const float* x, size_t n, float* w) {
    float sum = 0.0f, most = 0.0f;
    ATLAS_VECTOR_SUM(sum)
    for (size_t i = 0; i < n; ++i) sum += x[i] * x[i];
    for (size_t i = 0; i < n; ++i) most = std::max(most, std::fabs(x[i]));
    if (most <= 0x1p-25f) return false;
    const float factor = static_cast<float>(n) / sum;
    ATLAS_VECTOR_LOOP
    for (size_t i = 0; i < n; ++i) w[i] = 1.0f + 0.3f * (x[i] * x[i] * factor);
    return true;
}

bool can_encode(WeightType to, int64_t cols) {
    return encoder_of(to) != nullptr && cols > 0 && cols % kernels::weight_type_info(to).block_elements == 0;
}

void encode_weights(WeightType to, const float* row, int64_t cols, std::byte* out) {
    const EncodeBlock encode = encoder_of(to);
    const kernels::WeightTypeInfo& info = kernels::weight_type_info(to);
    const auto elements = static_cast<size_t>(info.block_elements);
    auto* to_block = reinterpret_cast<uint8_t*>(out);
    float x[kBlockK];
    for (size_t i = 0; i < static_cast<size_t>(cols); i += elements, to_block += info.block_bytes) {
        clean(row + i, elements, x);
        encode(x, to_block);
    }
}

}  // namespace atlas::weights
