#include <array>

#include "weights/encode_fit.h"

namespace atlas::weights {
namespace {

constexpr size_t kBlock = 256;

/** Choices of the sub-blocks' own numbers, between which the block's are refined: a third gains 0.02 dB. */
constexpr int kRounds = 2;

// --- q4_K, q5_K: eight sub-blocks of 32 with scales and minima of six bits ---

constexpr size_t kSub = 32, kSubs = 8;
constexpr int kMostSix = 63;

struct Lines {
    float scale = 0.0f, least = 0.0f;  ///< of all sub-blocks: what f16 holds
    std::array<int, kSubs> scales{}, minima{};

    Line line(size_t j) const {
        return {scale * static_cast<float>(scales[j]), -least * static_cast<float>(minima[j])};
    }
};

int to_six_bits(float v) { return static_cast<int>(nearest(std::min(std::max(v, 0.0f), 63.0f))); }

/** The scale and minimum of sub-block j, near the line that would be best: returns the error. */
float choose_line(const Samples<kSub>& s, const EvenLevels& levels, Line ideal, size_t j, Lines* to) {
    const int scale = to_six_bits(ideal.scale * inverse_of(to->scale));
    const int least = to_six_bits(-ideal.offset * inverse_of(to->least));
    float best = HUGE_VALF;
    for (int a = std::max(scale - 1, 0); a <= std::min(scale + 1, kMostSix); ++a) {
        for (int b = std::max(least - 1, 0); b <= std::min(least + 1, kMostSix); ++b) {
            const Line line{to->scale * static_cast<float>(a), -to->least * static_cast<float>(b)};
            const float error = error_of(s, levels, line);
            if (error < best) best = error, to->scales[j] = a, to->minima[j] = b;
        }
    }
    return best;
}

/** Moves the two f16 numbers to the least squares of the codes. */
void refine(const float* x, const float* w, const EvenLevels& levels, Lines* lines) {
    double aa = 0.0, ab = 0.0, bb = 0.0, xa = 0.0, xb = 0.0;
    for (size_t j = 0; j < kSubs; ++j) {
        const Moments m = moments_of<kSub>({x + j * kSub, w + j * kSub}, levels, lines->line(j));
        const double a = lines->scales[j], b = -lines->minima[j];
        aa += a * a * static_cast<double>(m.wqq);
        ab += a * b * static_cast<double>(m.wq);
        bb += b * b * static_cast<double>(m.ww);
        xa += a * static_cast<double>(m.wxq);
        xb += b * static_cast<double>(m.wx);
    }
    const double determinant = aa * bb - ab * ab;
    if (determinant > 1e-9 * aa * bb) {
        lines->scale = half_scale(static_cast<float>((xa * bb - xb * ab) / determinant));
        lines->least = half_scale(static_cast<float>((xb * aa - xa * ab) / determinant));
    } else if (aa > 0.0) {
        lines->scale = half_scale(static_cast<float>(xa / aa));
    }
}

Lines fit_lines(const float* x, const float* w, const EvenLevels& levels, const Candidates& candidates) {
    Line ideal[kSubs];
    float scale = 0.0f, least = 0.0f;
    for (size_t j = 0; j < kSubs; ++j) {
        const float* xs = x + j * kSub;
        const auto [low, high] = std::minmax_element(xs, xs + kSub);
        ideal[j] = fit_line<kSub>({xs, w + j * kSub}, levels, *low, *high, true, candidates);
        scale = std::max(scale, ideal[j].scale);
        least = std::max(least, -ideal[j].offset);
    }
    Lines best;
    float best_error = HUGE_VALF;
    Lines lines;
    lines.scale = half_not_below(scale / kMostSix);
    lines.least = half_not_below(least / kMostSix);
    for (int round = 0; round < kRounds; ++round) {
        float error = 0.0f;
        for (size_t j = 0; j < kSubs; ++j)
            error += choose_line({x + j * kSub, w + j * kSub}, levels, ideal[j], j, &lines);
        if (error < best_error) best = lines, best_error = error;
        refine(x, w, levels, &lines);
    }
    return best;
}

/** Scales and minima in 12 bytes: the upper two bits of the last four lie above the six of the first four. */
void put_six_bits(const Lines& lines, uint8_t* to) {
    for (size_t j = 0; j < 4; ++j) {
        const int scale = lines.scales[j + 4], least = lines.minima[j + 4];
        to[j] = static_cast<uint8_t>(lines.scales[j] | (scale >> 4) << 6);
        to[j + 4] = static_cast<uint8_t>(lines.minima[j] | (least >> 4) << 6);
        to[j + 8] = static_cast<uint8_t>((scale & 15) | (least & 15) << 4);
    }
}

/** f16 d, f16 dmin, scales[12], for q5_K fifth bits[32], nibbles[128]. */
template <int kBits>
void encode_lines(const float* x, const Candidates& candidates, uint8_t* out) {
    const EvenLevels levels{0.0f, kBits == 4 ? 15.0f : 31.0f};
    float w[kBlock];
    Lines lines;
    if (count_errors(x, kBlock, w)) lines = fit_lines(x, w, levels, candidates);
    uint8_t codes[kBlock];
    for (size_t j = 0; j < kSubs; ++j) write_codes<kSub>(x + j * kSub, levels, lines.line(j), codes + j * kSub);
    put_half(out, lines.scale);
    put_half(out + 2, lines.least);
    put_six_bits(lines, out + 4);
    uint8_t* nibbles = out + (kBits == 5 ? 48 : 16);
    for (size_t i = 0; i < kBlock / 2; ++i) {
        const uint8_t* pair = codes + i / kSub * 2 * kSub + i % kSub;
        nibbles[i] = static_cast<uint8_t>((pair[0] & 15) | (pair[kSub] & 15) << 4);
    }
    if (kBits != 5) return;
    for (size_t l = 0; l < kSub; ++l) {
        int fifth = 0;
        for (size_t j = 0; j < kSubs; ++j) fifth |= codes[j * kSub + l] >> 4 << j;
        out[16 + l] = static_cast<uint8_t>(fifth);
    }
}

// --- q6_K: sixteen sub-blocks of 16 with scales of eight bits ---

constexpr size_t kSub6 = 16, kSubs6 = 16;

struct Scales {
    float scale = 0.0f;  ///< of all sub-blocks: what f16 holds
    std::array<int, kSubs6> scales{};
};

constexpr EvenLevels kLevels6{-32.0f, 31.0f};

/** Steps of the eight bits to either side of the best scale alone: where the largest sub-blocks have 128, that is 3 %, one step of the code 32. */
constexpr int kReach = 4;

/** The scale of sub-block j, near the one that would be best: returns the error. */
float choose_scale(const Samples<kSub6>& s, float ideal, size_t j, Scales* to) {
    const float exact = ideal * inverse_of(to->scale);
    const int around = static_cast<int>(nearest(std::min(std::max(exact, -128.0f), 127.0f)));
    float best = HUGE_VALF;
    for (int a = std::max(around - kReach, -128); a <= std::min(around + kReach, 127); ++a) {
        const float error = error_of(s, kLevels6, {to->scale * static_cast<float>(a), 0.0f});
        if (error < best) best = error, to->scales[j] = a;
    }
    return best;
}

/** Moves the f16 number to the least squares of the codes. */
void refine(const float* x, const float* w, Scales* to) {
    double xa = 0.0, aa = 0.0;
    for (size_t j = 0; j < kSubs6; ++j) {
        const float a = static_cast<float>(to->scales[j]);
        const Moments m = moments_of<kSub6>({x + j * kSub6, w + j * kSub6}, kLevels6, {to->scale * a, 0.0f});
        xa += static_cast<double>(a) * static_cast<double>(m.wxq);
        aa += static_cast<double>(a) * static_cast<double>(a) * static_cast<double>(m.wqq);
    }
    if (aa > 0.0) to->scale = half_scale(static_cast<float>(xa / aa));
}

Scales fit_scales(const float* x, const float* w) {
    float ideal[kSubs6];
    float most = 0.0f;
    for (size_t j = 0; j < kSubs6; ++j) {
        const float* xs = x + j * kSub6;
        const auto [low, high] = std::minmax_element(xs, xs + kSub6);
        const float largest = -*low > *high ? *low : *high;
        ideal[j] =
            largest == 0.0f ? 0.0f : fit_scale<kSub6>({xs, w + j * kSub6}, kLevels6, largest, {{-33.0f, 0.25f, 11}});
        if (std::fabs(ideal[j]) > std::fabs(most)) most = ideal[j];
    }
    Scales best;
    float best_error = HUGE_VALF;
    Scales scales;
    scales.scale = half_not_below(most / -128.0f);
    for (int round = 0; round < kRounds; ++round) {
        float error = 0.0f;
        for (size_t j = 0; j < kSubs6; ++j) error += choose_scale({x + j * kSub6, w + j * kSub6}, ideal[j], j, &scales);
        if (error < best_error) best = scales, best_error = error;
        refine(x, w, &scales);
    }
    return best;
}

}  // namespace

void encode_q4_K(const float* x, uint8_t* out) { encode_lines<4>(x, {-1.0f, 0.25f, 13}, out); }
void encode_q5_K(const float* x, uint8_t* out) { encode_lines<5>(x, {-2.0f, 0.25f, 16}, out); }

/** Nibbles[128], upper two bits[64], i8 scales[16], f16 d; of 128 elements the bits of four 32s share bytes. */
void encode_q6_K(const float* x, uint8_t* out) {
    float w[kBlock];
    Scales scales;
    if (count_errors(x, kBlock, w)) scales = fit_scales(x, w);
    uint8_t codes[kBlock];
    for (size_t j = 0; j < kSubs6; ++j)
        write_codes<kSub6>(x + j * kSub6, kLevels6, {scales.scale * static_cast<float>(scales.scales[j]), 0.0f},
                           codes + j * kSub6);
    for (size_t half = 0; half < 2; ++half) {
        const uint8_t* q = codes + 128 * half;
        for (size_t i = 0; i < 64; ++i) out[64 * half + i] = static_cast<uint8_t>((q[i] & 15) | (q[i + 64] & 15) << 4);
        for (size_t i = 0; i < 32; ++i)
            out[128 + 32 * half + i] =
                static_cast<uint8_t>(q[i] >> 4 | q[i + 32] >> 4 << 2 | q[i + 64] >> 4 << 4 | q[i + 96] >> 4 << 6);
    }
    for (size_t j = 0; j < kSubs6; ++j) out[192 + j] = static_cast<uint8_t>(static_cast<int8_t>(scales.scales[j]));
    put_half(out + 208, scales.scale);
}

}  // namespace atlas::weights
