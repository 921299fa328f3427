#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/e4m3.h"
#include "kernels/levels.h"
#include "kernels/reference/reference.h"

namespace atlas::kernels::reference {
namespace {

/** The numbers of one block: element i is scaled[i] + offset[i]. Offsets are the types' minima; activations have sums of their own for them. */
struct Decoded {
    std::array<double, 256> scaled;
    std::array<double, 256> offset;
};

using Decode = void (*)(const uint8_t* block, Decoded* out);

uint16_t word_at(const uint8_t* from) {
    uint16_t bits;
    std::memcpy(&bits, from, sizeof bits);
    return bits;
}
double half_at(const uint8_t* from) { return static_cast<double>(f16_to_f32(word_at(from))); }
double float_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return static_cast<double>(value);
}

// --- plain numbers ---

void decode_f32(const uint8_t* block, Decoded* out) {
    uint32_t bits;
    std::memcpy(&bits, block, sizeof bits);
    out->scaled[0] = float_of(bits);
}
void decode_f16(const uint8_t* block, Decoded* out) { out->scaled[0] = half_at(block); }
void decode_bf16(const uint8_t* block, Decoded* out) { out->scaled[0] = float_of(uint32_t{word_at(block)} << 16); }

// --- blocks of 32; nibbles: low ones are elements 0–15, high ones 16–31 ---

int nibble(const uint8_t* quants, int i) { return i < 16 ? quants[i] & 15 : quants[i - 16] >> 4; }

/** f16 d, i8 q[32]: d·q. */
void decode_q8_0(const uint8_t* block, Decoded* out) {
    for (size_t i = 0; i < 32; ++i) out->scaled[i] = half_at(block) * static_cast<int8_t>(block[2 + i]);
}
/** f16 d, nibbles: d·(q − 8). */
void decode_q4_0(const uint8_t* block, Decoded* out) {
    for (int i = 0; i < 32; ++i) out->scaled[static_cast<size_t>(i)] = half_at(block) * (nibble(block + 2, i) - 8);
}
/** f16 d, f16 m, nibbles: d·q + m. */
void decode_q4_1(const uint8_t* block, Decoded* out) {
    for (int i = 0; i < 32; ++i) {
        out->scaled[static_cast<size_t>(i)] = half_at(block) * nibble(block + 4, i);
        out->offset[static_cast<size_t>(i)] = half_at(block + 2);
    }
}
int fifth_bit(const uint8_t* bits, int i) { return (bits[i / 8] >> (i % 8) & 1) << 4; }
/** f16 d, u32 of fifth bits, nibbles: d·(q − 16). */
void decode_q5_0(const uint8_t* block, Decoded* out) {
    for (int i = 0; i < 32; ++i) {
        const int q = nibble(block + 6, i) | fifth_bit(block + 2, i);
        out->scaled[static_cast<size_t>(i)] = half_at(block) * (q - 16);
    }
}
/** f16 d, f16 m, u32 of fifth bits, nibbles: d·q + m. */
void decode_q5_1(const uint8_t* block, Decoded* out) {
    for (int i = 0; i < 32; ++i) {
        const int q = nibble(block + 8, i) | fifth_bit(block + 4, i);
        out->scaled[static_cast<size_t>(i)] = half_at(block) * q;
        out->offset[static_cast<size_t>(i)] = half_at(block + 2);
    }
}
/** f16 d, nibbles: d·level. */
void decode_iq4_nl(const uint8_t* block, Decoded* out) {
    for (int i = 0; i < 32; ++i)
        out->scaled[static_cast<size_t>(i)] = half_at(block) * kLevelsIQ4[nibble(block + 2, i)];
}
/** u8 e, nibbles: 2^(e − 127) · FP4. */
void decode_mxfp4(const uint8_t* block, Decoded* out) {
    for (int i = 0; i < 32; ++i)
        out->scaled[static_cast<size_t>(i)] = std::ldexp(kLevelsFP4[nibble(block + 1, i)], block[0] - 128);
}

// --- blocks of 256 ---

/** u8 scales[16] (low nibble: scale, high: minimum), two bits q[64], f16 d, f16 dmin. Sub-blocks of 16: d·s·q − dmin·m. */
void decode_q2_K(const uint8_t* block, Decoded* out) {
    const double d = half_at(block + 80), least = half_at(block + 82);
    for (size_t i = 0; i < 256; ++i) {
        const size_t half = i / 128, pair = i / 32 % 4;
        const int q = block[16 + 32 * half + i % 32] >> (2 * pair) & 3;
        const int scale = block[i / 16];
        out->scaled[i] = d * (scale & 15) * q;
        out->offset[i] = -least * (scale >> 4);
    }
}
/** u8 third bits[32], two bits q[64], six bits scales[16] in 12 bytes, f16 d. Sub-blocks of 16: d·(s − 32)·(q − 4). */
void decode_q3_K(const uint8_t* block, Decoded* out) {
    const double d = half_at(block + 108);
    for (size_t i = 0; i < 256; ++i) {
        const size_t half = i / 128, pair = i / 32 % 4, sub = i / 16;
        const uint8_t* s = block + 96;
        const int low = sub < 8 ? s[sub] & 15 : s[sub - 8] >> 4;
        const int scale = low | (s[8 + sub % 4] >> (2 * (sub / 4)) & 3) << 4;
        const int third = block[i % 32] >> (4 * half + pair) & 1;
        const int q = (block[32 + 32 * half + i % 32] >> (2 * pair) & 3) | third << 2;
        out->scaled[i] = d * (scale - 32) * (q - 4);
    }
}
/** Scale and minimum of sub-block j < 8 out of the 12 bytes of q4_K and q5_K. */
void scale_of_k4(const uint8_t* s, size_t j, int* scale, int* least) {
    if (j < 4) {
        *scale = s[j] & 63;
        *least = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        *least = s[j + 4] >> 4 | (s[j] >> 6) << 4;
    }
}
/** f16 d, f16 dmin, scales[12], q[128]: 32 bytes hold two sub-blocks of 32, low nibbles the earlier: d·s·q − dmin·m. */
void decode_q4_K(const uint8_t* block, Decoded* out) {
    for (size_t i = 0; i < 256; ++i) {
        int scale, least;
        scale_of_k4(block + 4, i / 32, &scale, &least);
        const int q = block[16 + 32 * (i / 64) + i % 32] >> (i / 32 % 2 * 4) & 15;
        out->scaled[i] = half_at(block) * scale * q;
        out->offset[i] = -half_at(block + 2) * least;
    }
}
/** The same with 32 bytes of fifth bits before q: bit j of byte l belongs to element l of sub-block j. */
void decode_q5_K(const uint8_t* block, Decoded* out) {
    for (size_t i = 0; i < 256; ++i) {
        int scale, least;
        scale_of_k4(block + 4, i / 32, &scale, &least);
        const int fifth = block[16 + i % 32] >> (i / 32) & 1;
        const int q = (block[48 + 32 * (i / 64) + i % 32] >> (i / 32 % 2 * 4) & 15) | fifth << 4;
        out->scaled[i] = half_at(block) * scale * q;
        out->offset[i] = -half_at(block + 2) * least;
    }
}
/** q[128] of four bits, q[64] of two upper ones, i8 scales[16], f16 d. Sub-blocks of 16: d·s·(q − 32). */
void decode_q6_K(const uint8_t* block, Decoded* out) {
    const double d = half_at(block + 208);
    for (size_t i = 0; i < 256; ++i) {
        const size_t half = i / 128, quarter = i / 32 % 4;
        const int low = block[64 * half + 32 * (quarter % 2) + i % 32] >> (quarter / 2 * 4) & 15;
        const int q = low | (block[128 + 32 * half + i % 32] >> (2 * quarter) & 3) << 4;
        out->scaled[i] = d * static_cast<int8_t>(block[192 + i / 16]) * (q - 32);
    }
}
/** f16 d, u16 and u8[4] of scales in six bits (two upper, four lower), nibbles of eight blocks of 32: d·(s − 32)·level. */
void decode_iq4_xs(const uint8_t* block, Decoded* out) {
    for (size_t i = 0; i < 256; ++i) {
        const size_t sub = i / 32;
        const int scale = (block[4 + sub / 2] >> (sub % 2 * 4) & 15) | (word_at(block + 2) >> (2 * sub) & 3) << 4;
        const auto level = kLevelsIQ4[nibble(block + 8 + 16 * sub, static_cast<int>(i % 32))];
        out->scaled[i] = half_at(block) * (scale - 32) * level;
    }
}

/** kernels/e4m3.h. */
void decode_e4m3(const uint8_t* block, Decoded* out) {
    for (size_t i = 0; i < kE4M3Block; ++i) {
        const int code = block[1 + i % 32 * 2 + i / 32];
        const int exponent = code >> 3 & 15, fraction = code & 7;
        const double size = (code & 127) == 0 ? 0.0 : std::ldexp(8 + fraction, exponent - 10 + block[0] - 127);
        out->scaled[i] = code & 128 ? -size : size;
    }
}

constexpr Decode kDecode[kWeightTypeCount] = {
    decode_f32,  decode_f16,  decode_bf16,   decode_q8_0,   decode_q4_0, decode_q4_1,
    decode_q5_0, decode_q5_1, decode_iq4_nl, decode_mxfp4,  decode_q2_K, decode_q3_K,
    decode_q4_K, decode_q5_K, decode_q6_K,   decode_iq4_xs, decode_e4m3,
};

// --- activations ---

/** Where element i is in split order. */
size_t split(size_t i) { return i / 128 * 128 + i / 16 % 2 * 64 + i / 32 % 4 * 16 + i % 16; }

template <class T>
T* plane(std::byte* column, size_t offset) {
    return reinterpret_cast<T*>(column + offset);
}
template <class T>
const T* plane(const std::byte* column, size_t offset) {
    return reinterpret_cast<const T*>(column + offset);
}

/** The element of largest size; NaN or infinity if there is one. */
float largest(const float* x, size_t n) {
    float most = 0.0f;
    for (size_t i = 0; i < n; ++i) {
        if (!std::isfinite(x[i])) return std::numeric_limits<float>::quiet_NaN();
        if (std::fabs(x[i]) > std::fabs(most)) most = x[i];
    }
    return most;
}

void quantise_blocks(const ActivationLayout& at, bool k256, size_t k, const float* x, std::byte* column) {
    std::memset(column, 0, at.bytes);
    auto* codes = plane<int8_t>(column, at.codes);
    auto* split_codes = plane<int8_t>(column, at.split_codes);
    const size_t block = k256 ? 256 : 32;
    for (size_t b = 0; b < k / block; ++b) {
        const float* from = x + b * block;
        const float most = largest(from, block);
        float factor = 0.0f, scale = most;  // NaN stays: its codes are 0
        if (std::isfinite(most)) {
            factor = (k256 ? -127.0f : 127.0f) / (k256 ? most : std::fabs(most));
            if (!std::isfinite(factor)) factor = 0.0f;  // all 0, or smaller than any scale can say
            scale = k256 ? (factor != 0.0f ? 1.0f / factor : 0.0f) : std::fabs(most) / 127.0f;
        }
        int sum = 0;
        for (size_t i = 0; i < block; ++i) {
            const float code = factor == 0.0f ? 0.0f : std::nearbyint(from[i] * factor);
            codes[b * block + i] = static_cast<int8_t>(std::min(code, 127.0f));
            sum += codes[b * block + i];
        }
        if (k256) {
            plane<float>(column, at.scales)[b] = scale;
            continue;
        }
        plane<float>(column, at.scales)[b] = f16_to_f32(f32_to_f16(scale));
        plane<float>(column, at.offsets)[b] = f16_to_f32(f32_to_f16(scale * static_cast<float>(sum)));
    }
    const size_t unit = k256 ? 16 : 32;
    const auto parts_of = [&](size_t i) {  // of the sum of 16 codes from i
        const int sum = plane<int32_t>(column, at.sums)[i / 16];
        auto* parts = plane<int8_t>(column, at.byte_sums) + i / 256 * 32 + i / 16 % 16;
        parts[0] = static_cast<int8_t>(sum >> 6);
        parts[16] = static_cast<int8_t>(sum & 63);
    };
    for (size_t i = 0; i < k; ++i) {
        split_codes[split(i)] = codes[i];
        plane<int32_t>(column, at.sums)[i / unit] += codes[i];
        if (k256) plane<int16_t>(column, at.short_sums)[i / unit] += codes[i];
        plane<int32_t>(column, at.lane_sums)[i / 128 * 16 + split(i) % 64 / 4] += codes[i];
        if (k256 && i % 16 == 15) parts_of(i - 15);
    }
}

}  // namespace

void quantise_activations(const ActivationArgs& args, int64_t begin, int64_t end) {
    const ActivationLayout at(args.type, args.k);
    const auto k = static_cast<size_t>(args.k);
    for (int64_t j = begin; j < end; ++j) {
        const auto* x = reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(args.x) +
                                                       static_cast<size_t>(j) * args.x_stride);
        std::byte* column = args.out + static_cast<size_t>(j) * at.bytes;
        if (args.type == ActivationType::kQ8 || args.type == ActivationType::kQ8K) {
            quantise_blocks(at, args.type == ActivationType::kQ8K, k, x, column);
            continue;
        }
        std::memset(column, 0, at.bytes);
        auto* values = plane<float>(column, at.values);
        for (size_t i = 0; i < k; ++i) {
            if (args.type == ActivationType::kShiftedBF16) {
                const float shifted = std::ldexp(x[i], kE4M3ActivationShift);
                row_encoder(DataType::kBF16)(&shifted, column + at.values + 2 * i, 1);
            } else if (args.type == ActivationType::kBF16) {
                row_encoder(DataType::kBF16)(x + i, column + at.values + 2 * i, 1);
            } else {
                values[i] = args.type == ActivationType::kF16 ? f16_to_f32(f32_to_f16(x[i])) : x[i];
            }
            if (args.type == ActivationType::kF16) {
                std::byte* high = column + at.high + 2 * i;
                row_encoder(DataType::kBF16)(values + i, high, 1);
                float rounded = 0.0f;
                row_decoder(DataType::kBF16)(high, &rounded, 1);
                const float rest = std::isfinite(values[i]) ? values[i] - rounded : 0.0f;
                row_encoder(DataType::kBF16)(&rest, column + at.low + 2 * i, 1);
            }
        }
    }
}

void multiply_weights(const WeightProduct& product, int64_t begin, int64_t end) {
    const WeightMatrix& w = product.weights;
    const WeightTypeInfo& info = weight_type_info(w.type);
    const ActivationLayout at(info.activations, w.cols);
    const auto elements = static_cast<size_t>(info.block_elements);
    const size_t blocks = static_cast<size_t>(w.cols) / elements;
    for (int64_t r = begin; r < end; ++r) {
        for (int64_t j = 0; j < product.n; ++j) {
            const ColumnPair pair = product.columns != nullptr
                                        ? product.columns[j]
                                        : ColumnPair{static_cast<int32_t>(j), static_cast<int32_t>(j)};
            const std::byte* column = product.activations + static_cast<size_t>(pair.in) * at.bytes;
            double sum = 0.0;
            for (size_t b = 0; b < blocks; ++b) {
                const auto* block = reinterpret_cast<const uint8_t*>(w.data) + static_cast<size_t>(r) * w.row_stride +
                                    b * static_cast<size_t>(info.block_bytes);
                Decoded decoded{};
                kDecode[static_cast<size_t>(w.type)](block, &decoded);
                double scaled = 0.0, offset = 0.0;
                for (size_t i = 0; i < elements; ++i) {
                    const size_t e = b * elements + i;
                    double a = 0.0;
                    switch (info.activations) {
                        case ActivationType::kF32:
                        case ActivationType::kF16:
                            a = static_cast<double>(plane<float>(column, at.values)[e]);
                            break;
                        case ActivationType::kBF16:
                            a = float_of(uint32_t{plane<uint16_t>(column, at.values)[e]} << 16);
                            break;
                        case ActivationType::kShiftedBF16:
                            a = std::ldexp(float_of(uint32_t{plane<uint16_t>(column, at.values)[e]} << 16),
                                           -kE4M3ActivationShift);
                            break;
                        case ActivationType::kQ8:
                        case ActivationType::kQ8K:
                            a = plane<int8_t>(column, at.codes)[e];
                            break;
                    }
                    scaled += decoded.scaled[i] * a;
                    offset += decoded.offset[i] * a;
                }
                if (info.activations == ActivationType::kQ8) {
                    // One minimum per block, and its factor is the rounded sum.
                    sum += scaled * static_cast<double>(plane<float>(column, at.scales)[b]);
                    if (decoded.offset[0] != 0.0)
                        sum += decoded.offset[0] * static_cast<double>(plane<float>(column, at.offsets)[b]);
                } else if (info.activations == ActivationType::kQ8K) {
                    sum += (scaled + offset) * static_cast<double>(plane<float>(column, at.scales)[b]);
                } else {
                    sum += scaled;
                }
            }
            product.out[static_cast<size_t>(pair.out) * product.out_stride + static_cast<size_t>(r)] =
                static_cast<float>(sum);
        }
    }
}

}  // namespace atlas::kernels::reference
