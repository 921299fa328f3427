#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "base/vector_loop.h"
#include "kernels/row_codec.h"

namespace atlas::weights {

/**
 * Scales and minima that round N weights well: found among candidates and then moved to the least squares of the codes they gave, as in Lloyd's
 * algorithm. `w` says how much the square of each error counts.
 */
template <size_t N>
struct Samples {
    const float* x;
    const float* w;
};

/** Rounded to nearest, ties to even: adding 1.5 · 2²³ leaves no bits below 1. For |v| < 2²². SSE2 has no instruction for it, a call would cost more. */
inline float nearest(float v) {
    constexpr float kShift = 12582912.0f;
    return (v + kShift) - kShift;
}

/** Codes lowest … highest, each the value of itself. */
struct EvenLevels {
    float lowest, highest;
    /** The level nearest to v. */
    float operator()(float v) const { return nearest(std::min(std::max(v, lowest), highest)); }
};

/** x ≈ scale · level + offset. */
struct Line {
    float scale = 0.0f;
    float offset = 0.0f;
};

/** As f16 holds it; finite. */
inline float rounded_to_half(float value) {
    return kernels::f16_to_f32(kernels::f32_to_f16(std::min(std::max(value, -65504.0f), 65504.0f)));
}

/** The same, but not 0: the least f16 is nearer to what the block holds. */
inline float half_scale(float scale) {
    const float rounded = rounded_to_half(scale);
    return rounded != 0.0f || scale == 0.0f ? rounded : std::copysign(0x1p-24f, scale);
}

/** The f16 next to `scale` that is not smaller in size: multiples of it reach what multiples of `scale` do. Matters where f16 is subnormal and coarse. */
inline float half_not_below(float scale) {
    const float rounded = half_scale(scale);
    if (std::fabs(rounded) >= std::fabs(scale)) return rounded;
    return kernels::f16_to_f32(static_cast<uint16_t>(kernels::f32_to_f16(rounded) + 1));
}

inline void put_half(uint8_t* to, float value) {
    const uint16_t bits = kernels::f32_to_f16(value);
    std::memcpy(to, &bits, sizeof bits);
}

/** 1 / scale, 0 for a scale that rounds all to the same. */
inline float inverse_of(float scale) {
    const float inverse = 1.0f / scale;
    return std::isfinite(inverse) ? inverse : 0.0f;
}

/** Σ w · (x − line(level))², each with the level nearest to it. */
template <size_t N, class Levels>
float error_of(const Samples<N>& s, const Levels& levels, Line line) {
    const float inverse = inverse_of(line.scale);
    const float* x = s.x;
    const float* w = s.w;
    float sum = 0.0f;
    ATLAS_VECTOR_SUM(sum)
    for (size_t i = 0; i < N; ++i) {
        const float rest = x[i] - line.offset;
        const float off = rest - line.scale * levels(rest * inverse);
        sum += w[i] * off * off;
    }
    return sum;
}

/** The least squares of the codes that a scale gives, without an offset. */
template <size_t N, class Levels>
float refined_scale(const Samples<N>& s, const Levels& levels, float scale, float* gain) {
    const float inverse = inverse_of(scale);
    const float* x = s.x;
    const float* w = s.w;
    float wxq = 0.0f, wqq = 0.0f;
    ATLAS_VECTOR_SUM(wxq, wqq)
    for (size_t i = 0; i < N; ++i) {
        const float q = levels(x[i] * inverse);
        wxq += w[i] * x[i] * q;
        wqq += w[i] * q * q;
    }
    // The error is Σ w·x² − wxq² / wqq.
    *gain = wqq > 0.0f ? wxq * wxq / wqq : 0.0f;
    return wqq > 0.0f ? wxq / wqq : 0.0f;
}

/** A range of candidates: the largest weight is laid on level first, first + step … */
struct Candidates {
    float first, step;
    int count;
};

/** Lloyd's steps from the best candidate: later ones hardly change a code. */
inline constexpr int kRefinements = 2;

/** The best scale without an offset, of either sign where levels reach further to one side. `most`: the weight of largest size. */
template <size_t N, class Levels>
float fit_scale(const Samples<N>& s, const Levels& levels, float most, std::initializer_list<Candidates> candidates) {
    float best = 0.0f, best_gain = -1.0f;
    const auto consider = [&](float scale) {
        float gain;
        const float refined = refined_scale(s, levels, scale, &gain);
        if (gain > best_gain) best = refined, best_gain = gain;
    };
    for (const Candidates& c : candidates)
        for (int i = 0; i < c.count; ++i) consider(most / (c.first + c.step * static_cast<float>(i)));
    for (int i = 0; i < kRefinements; ++i) consider(best);
    return best;
}

/** Sums over a sub-block of products of w, x and the codes q that a line gives. */
struct Moments {
    float ww = 0.0f, wx = 0.0f, wq = 0.0f, wqq = 0.0f, wxq = 0.0f;
};

template <size_t N>
Moments moments_of(const Samples<N>& s, const EvenLevels& levels, Line line) {
    const float inverse = inverse_of(line.scale);
    const float* x = s.x;
    const float* w = s.w;
    float ww = 0.0f, wx = 0.0f, wq = 0.0f, wqq = 0.0f, wxq = 0.0f;
    ATLAS_VECTOR_SUM(ww, wx, wq, wqq, wxq)
    for (size_t i = 0; i < N; ++i) {
        const float q = levels((x[i] - line.offset) * inverse);
        ww += w[i];
        wx += w[i] * x[i];
        wq += w[i] * q;
        wqq += w[i] * q * q;
        wxq += w[i] * x[i] * q;
    }
    return {ww, wx, wq, wqq, wxq};
}

/** The least squares of the codes that a line gives; offset at most 0 if `below`. */
template <size_t N>
Line refined_line(const Samples<N>& s, const EvenLevels& levels, Line line, bool below, float* gain) {
    const Moments m = moments_of(s, levels, line);
    Line out;
    const float determinant = m.ww * m.wqq - m.wq * m.wq;
    if (determinant > 0.0f) {
        out.scale = (m.ww * m.wxq - m.wx * m.wq) / determinant;
        out.offset = (m.wqq * m.wx - m.wq * m.wxq) / determinant;
    } else {  // one code for all
        out.offset = m.wx / m.ww;
    }
    if (below && out.offset > 0.0f) out = {m.wqq > 0.0f ? m.wxq / m.wqq : 0.0f, 0.0f};
    *gain = out.scale * m.wxq + out.offset * m.wx;  // the error is Σ w·x² less this
    return out;
}

/** The best line with levels from 0; offset at most 0 if `below`. */
template <size_t N>
Line fit_line(const Samples<N>& s, const EvenLevels& levels, float least, float most, bool below,
              const Candidates& candidates) {
    if (below) least = std::min(least, 0.0f);
    Line best{0.0f, least};
    float best_gain = -HUGE_VALF;
    const auto consider = [&](Line line) {
        float gain;
        const Line refined = refined_line(s, levels, line, below, &gain);
        if (gain > best_gain) best = refined, best_gain = gain;
    };
    for (int i = 0; i < candidates.count; ++i) {
        const float reach = levels.highest + candidates.first + candidates.step * static_cast<float>(i);
        const float scale = (most - least) / reach;
        // Both ends are cut alike where the levels do not reach.
        consider({scale, least + 0.5f * scale * (reach - levels.highest)});
    }
    for (int i = 0; i < kRefinements; ++i) consider(best);
    return best;
}

/** Codes of the levels nearest to x: their number from the lowest. */
template <size_t N>
void write_codes(const float* x, const EvenLevels& levels, Line line, uint8_t* codes) {
    const float inverse = inverse_of(line.scale);
    ATLAS_VECTOR_LOOP
    for (size_t i = 0; i < N; ++i)
        codes[i] = static_cast<uint8_t>(static_cast<int32_t>(levels((x[i] - line.offset) * inverse) - levels.lowest));
}

/** Encode one block of 256. */
void encode_q4_K(const float* x, uint8_t* out);
void encode_q5_K(const float* x, uint8_t* out);
void encode_q6_K(const float* x, uint8_t* out);
void encode_e4m3(const float* x, uint8_t* out);  ///< 64 weights: kernels/e4m3.h

/**
 * How much the square of each of n errors counts: 1 + 0.3 · x² / mean(x²). Of the factors tried (0, 0.3, 1) this one gave both kinds of error, plain
 * and counted by x² + mean(x²), no more than llama.cpp's quantiser has on trained weights; 0 and 1 give up 0.4 dB and 0.1 dB of one for the other.
 * False if all of x rounds to 0: no type has anything between 0 and f16's least number.
 */
bool count_errors(const float* x, size_t n, float* w);

}  // namespace atlas::weights
