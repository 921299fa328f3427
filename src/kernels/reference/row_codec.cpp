#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/levels.h"
#include "kernels/reference/reference.h"

namespace atlas::kernels::reference {
namespace {

constexpr int kBlock = 32;
constexpr int kHalf = kBlock / 2;

float read_half(const uint8_t* from) {
    uint16_t bits;
    std::memcpy(&bits, from, sizeof bits);
    return f16_to_f32(bits);
}

void write_half(float value, uint8_t* to) {
    const uint16_t bits = f32_to_f16(value);
    std::memcpy(to, &bits, sizeof bits);
}

// --- plain floats ---

void decode_f32(const void* src, float* dst, int64_t n) {
    std::memcpy(dst, src, static_cast<size_t>(n) * sizeof(float));
}
void encode_f32(const float* src, void* dst, int64_t n) {
    std::memcpy(dst, src, static_cast<size_t>(n) * sizeof(float));
}

void decode_f16(const void* src, float* dst, int64_t n) {
    const auto* from = static_cast<const uint8_t*>(src);
    for (int64_t i = 0; i < n; ++i) dst[i] = read_half(from + 2 * i);
}

void encode_f16(const float* src, void* dst, int64_t n) {
    auto* to = static_cast<uint8_t*>(dst);
    for (int64_t i = 0; i < n; ++i) write_half(src[i], to + 2 * i);
}

void decode_bf16(const void* src, float* dst, int64_t n) {
    const auto* from = static_cast<const uint8_t*>(src);
    for (int64_t i = 0; i < n; ++i) {
        uint16_t bits;
        std::memcpy(&bits, from + 2 * i, sizeof bits);
        const uint32_t wide = static_cast<uint32_t>(bits) << 16;
        std::memcpy(&dst[i], &wide, sizeof wide);
    }
}

void encode_bf16(const float* src, void* dst, int64_t n) {
    auto* to = static_cast<uint8_t*>(dst);
    for (int64_t i = 0; i < n; ++i) {
        uint32_t bits;
        std::memcpy(&bits, &src[i], sizeof bits);
        // Round to nearest, ties to even; a NaN stays one.
        const uint16_t half = (bits & 0x7FFFFFFF) > 0x7F800000
                                  ? static_cast<uint16_t>((bits >> 16) | 64)
                                  : static_cast<uint16_t>((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16);
        std::memcpy(to + 2 * i, &half, sizeof half);
    }
}

// --- blocks of 32 ---

void decode_q8_0(const void* src, float* dst, int64_t n) {
    const auto* block = static_cast<const uint8_t*>(src);
    for (int64_t b = 0; b < n; b += kBlock, block += 34) {
        const float d = read_half(block);
        for (int i = 0; i < kBlock; ++i) dst[b + i] = d * static_cast<float>(static_cast<int8_t>(block[2 + i]));
    }
}

void encode_q8_0(const float* src, void* dst, int64_t n) {
    auto* block = static_cast<uint8_t*>(dst);
    for (int64_t b = 0; b < n; b += kBlock, block += 34) {
        float largest = 0.0f;
        for (int i = 0; i < kBlock; ++i) largest = std::max(largest, std::fabs(src[b + i]));
        const float d = largest / 127.0f;
        const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
        write_half(d, block);
        for (int i = 0; i < kBlock; ++i)
            block[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(std::round(src[b + i] * inverse)));
    }
}

/** Layout of the types whose last 16 bytes are nibbles. */
struct NibbleFormat {
    int bytes;
    int bias;    // subtracted from the quant
    bool fifth;  // u32 of fifth bits before the nibbles
    bool min;    // f16 minimum behind the scale
};
constexpr NibbleFormat kQ4_0{18, 8, false, false};
constexpr NibbleFormat kQ4_1{20, 0, false, true};
constexpr NibbleFormat kQ5_0{22, 16, true, false};
constexpr NibbleFormat kQ5_1{24, 0, true, true};

template <const NibbleFormat& F>
void decode_nibbles(const void* src, float* dst, int64_t n) {
    const auto* block = static_cast<const uint8_t*>(src);
    for (int64_t b = 0; b < n; b += kBlock, block += F.bytes) {
        const float d = read_half(block);
        const float offset = F.min ? read_half(block + 2) : 0.0f;
        uint32_t fifth = 0;
        if (F.fifth) std::memcpy(&fifth, block + F.bytes - 20, sizeof fifth);
        const uint8_t* quants = block + F.bytes - kHalf;
        for (int i = 0; i < kBlock; ++i) {
            int q = i < kHalf ? quants[i] & 15 : quants[i - kHalf] >> 4;
            q |= static_cast<int>((fifth >> i) & 1) << 4;
            dst[b + i] = static_cast<float>(q - F.bias) * d + offset;
        }
    }
}

template <const NibbleFormat& F>
void encode_nibbles(const float* src, void* dst, int64_t n) {
    constexpr int kTop = F.fifth ? 31 : 15;
    auto* block = static_cast<uint8_t*>(dst);
    for (int64_t b = 0; b < n; b += kBlock, block += F.bytes) {
        const float* x = src + b;
        float d;
        float zero;  // quant = x / d + zero, rounded by truncation
        if (F.min) {
            const auto [low, high] = std::minmax_element(x, x + kBlock);
            d = (*high - *low) / static_cast<float>(kTop);
            zero = *low;
            write_half(*low, block + 2);
        } else {
            // The value of largest magnitude, sign kept, maps to the lowest quant.
            const float extreme =
                *std::max_element(x, x + kBlock, [](float a, float c) { return std::fabs(a) < std::fabs(c); });
            d = extreme / -static_cast<float>(F.bias);
            zero = 0.0f;
        }
        const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
        write_half(d, block);
        uint32_t fifth = 0;
        uint8_t* quants = block + F.bytes - kHalf;
        std::fill(quants, quants + kHalf, uint8_t{0});
        for (int i = 0; i < kBlock; ++i) {
            const float value =
                F.min ? (x[i] - zero) * inverse + 0.5f : x[i] * inverse + static_cast<float>(F.bias) + 0.5f;
            const int q = std::clamp(static_cast<int>(value), 0, kTop);
            quants[i % kHalf] = static_cast<uint8_t>(quants[i % kHalf] | ((q & 15) << (i < kHalf ? 0 : 4)));
            fifth |= static_cast<uint32_t>(q >> 4) << i;
        }
        if (F.fifth) std::memcpy(block + F.bytes - 20, &fifth, sizeof fifth);
    }
}

void decode_iq4_nl(const void* src, float* dst, int64_t n) {
    const auto* block = static_cast<const uint8_t*>(src);
    for (int64_t b = 0; b < n; b += kBlock, block += 18) {
        const float d = read_half(block);
        for (int i = 0; i < kHalf; ++i) {
            dst[b + i] = d * kLevelsIQ4[block[2 + i] & 15];
            dst[b + i + kHalf] = d * kLevelsIQ4[block[2 + i] >> 4];
        }
    }
}

int nearest_level(float x) {
    int best = 0;
    for (int i = 1; i < 16; ++i) {
        if (std::fabs(x - kLevelsIQ4[i]) < std::fabs(x - kLevelsIQ4[best])) best = i;
    }
    return best;
}

void encode_iq4_nl(const float* src, void* dst, int64_t n) {
    auto* block = static_cast<uint8_t*>(dst);
    for (int64_t b = 0; b < n; b += kBlock, block += 18) {
        const float* x = src + b;
        const float extreme =
            *std::max_element(x, x + kBlock, [](float a, float c) { return std::fabs(a) < std::fabs(c); });
        // Start from the scale that maps the extreme to the lowest level, then take the least-squares scale of the levels chosen,
        // weighted by x², over a few neighbouring scales.
        float best_scale = extreme / kLevelsIQ4[0];
        double best_gain = -1;
        for (int step = -7; step <= 7; ++step) {
            const float inverse = extreme != 0.0f ? (static_cast<float>(step) + kLevelsIQ4[0]) / extreme : 0.0f;
            double xl = 0;
            double ll = 0;
            for (int i = 0; i < kBlock; ++i) {
                const double level = kLevelsIQ4[nearest_level(x[i] * inverse)];
                const double weight = static_cast<double>(x[i]) * x[i];
                xl += weight * level * x[i];
                ll += weight * level * level;
            }
            if (ll > 0 && xl * xl / ll > best_gain) {
                best_gain = xl * xl / ll;
                best_scale = static_cast<float>(xl / ll);
            }
        }
        write_half(best_scale, block);
        const float inverse = best_scale != 0.0f ? 1.0f / best_scale : 0.0f;
        for (int i = 0; i < kHalf; ++i) {
            block[2 + i] =
                static_cast<uint8_t>(nearest_level(x[i] * inverse) | (nearest_level(x[i + kHalf] * inverse) << 4));
        }
    }
}

struct Codec {
    RowDecoder decode;
    RowEncoder encode;
};

constexpr Codec kCodecs[] = {
    {decode_f32, encode_f32},
    {decode_f16, encode_f16},
    {decode_bf16, encode_bf16},
    {decode_q8_0, encode_q8_0},
    {decode_nibbles<kQ4_0>, encode_nibbles<kQ4_0>},
    {decode_nibbles<kQ4_1>, encode_nibbles<kQ4_1>},
    {decode_nibbles<kQ5_0>, encode_nibbles<kQ5_0>},
    {decode_nibbles<kQ5_1>, encode_nibbles<kQ5_1>},
    {decode_iq4_nl, encode_iq4_nl},
    {nullptr, nullptr},
};

}  // namespace

void decode_rows(const EncodedRows& rows, float* out) {
    const RowDecoder decode = rows.type == DataType::kOther ? rows.decoder : row_decoder(rows.type);
    for (int64_t j = 0; j < rows.count; ++j) decode(rows.data + j * rows.stride, out + j * rows.d, rows.d);
}

void encode_row(DataType type, const float* src, void* dst, int64_t n) { row_encoder(type)(src, dst, n); }

RowDecoder row_decoder(DataType type) { return kCodecs[static_cast<size_t>(type)].decode; }
RowEncoder row_encoder(DataType type) { return kCodecs[static_cast<size_t>(type)].encode; }

}  // namespace atlas::kernels::reference
