#pragma once

#include <cstddef>
#include <cstdint>

namespace atlas::kernels {

/** Keys per page of codes: one page of a cache. */
inline constexpr int64_t kCodeKeys = 64;

/**
 * Two-bit codes of the 64 keys of one page of one KV head, from which q·k of each key is estimated without reading it (RaBitQ's idea,
 * arXiv 2405.12497, with four levels). Keys are rotated by an orthogonal matrix R first (rotate_rows), so that every dimension is alike.
 * With m the stored mean of the page's rotated keys and y = Rk − m, a code c has elements −3, −1, 1 or 3, and s = |y|² / ⟨c, y⟩ makes
 *     q·k ≈ Rq·m + s·Rq·c
 * right on average over rotations, with an error variance of about |q|²·e²/d, e² = s²|c|² − |y|².
 *
 * One page is `bytes` bytes at an address divisible by 64:
 *   codes       u32 [d/16][64]: bits 8b + 2j, +1 of word (g, key) hold (c + 3) / 2 of dimension 16g + 4j + b
 *   key_scale   f16 [64]: s
 *   mean        i8 [d]: m, times mean_scale
 *   value_mean  i8 [d_v]: mean of the values, times value_scale
 *   factors     f32 [3]: mean_scale, value_scale, and noise: the mean of e² / (2d) over the keys
 */
struct CodeShape {
    int64_t d = 0;    ///< of a rotated key: d_k rounded up to a multiple of 16
    int64_t d_v = 0;  ///< of a value
    size_t key_scale = 0, mean = 0, value_mean = 0, factors = 0;  ///< where these begin, in bytes
    size_t bytes = 0;                                             ///< of a page, a multiple of 64

    CodeShape() = default;
    CodeShape(int64_t d_k, int64_t d_v);
};

/** Rotated queries in eight bits, and what belongs to each. Logits are in units of ln 2, so that weights are powers of two. */
struct CodeQueries {
    int64_t rows = 0;
    const int8_t* codes = nullptr;  ///< [rows][d], |q| ≤ largest_query_code(d)
    const float* exact = nullptr;   ///< [rows][d]: the same unrounded, times log2(e) and the scale of attention
    const float* scale = nullptr;   ///< [rows] exact ≈ scale · codes
    const float* offset = nullptr;  ///< [rows] −3 Σ codes: what the codes' range 0 … 3 adds to 2 Σ codes·(c + 3)/2
};

/** Sums of products of codes and queries up to this size fit 16 bits. */
int32_t largest_query_code(int64_t d);

/** The page's noise. */
float noise_of_codes(const CodeShape& shape, const std::byte* page);

/** A rounded mean value: `mean` [d_v] times `scale`. */
struct ValueMean {
    const int8_t* mean;
    float scale;
};
/** That of all keys of a page. */
ValueMean value_mean_of(const CodeShape& shape, const std::byte* page);

// What callers call: each is the entry of its name of the chosen table.
#define ATLAS_CODE_ENTRY(result, name, parameters, arguments) result name parameters;
#include "kernels/codes.def"

}  // namespace atlas::kernels
