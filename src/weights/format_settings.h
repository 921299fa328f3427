#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/status.h"
#include "kernels/weights.h"

namespace atlas::weights {

/** What weights that a model holds in f32, f16 or bf16 are rounded to while it is loaded (ATLAS_WEIGHT_FORMAT). */
struct FormatSettings {
    enum class Kind : uint8_t { kNative, kFixed, kAuto };
    Kind kind = Kind::kNative;
    int bits = 0;            ///< kFixed: 8, 6, 5 or 4 bits a code
    bool floats = false;     ///< kFixed, 8 bits: E4M3 instead of whole numbers
    bool head = false;       ///< the output head too, to 8 bits
    double bits_each = 0.0;  ///< kAuto: bits per weight, scales included, that all of them together may have

    std::string text;   ///< as it was said
    std::string cache;  ///< where what was rounded is kept: "" nowhere, "1" beside the model's file, or a folder

    bool is_native() const { return kind == Kind::kNative; }
};

/**
 * Of "native" (or nothing), "int8", "int6", "int5", "int4", "fp8" and "auto:BITS", BITS from 4.5 to 16; all but native also with "+head" behind it. Errors: anything
 * else, named, with what is allowed.
 */
Status parse_format(const std::string& text, FormatSettings* out);

/** The types a matrix may be rounded to, the one with most bits first; few where rows are no multiple of 256, none where they are none of 32. */
std::span<const kernels::WeightType> bodies(int64_t cols);

/** The one of them whose codes have so many bits, or more where there is none: int6 of rows that are no multiple of 256 is q8_0. */
std::optional<kernels::WeightType> body_of(int bits, int64_t cols);
/** E4M3; q8_0 where rows are no multiple of 64. */
std::optional<kernels::WeightType> float_body_of(int64_t cols);

/** Bits per weight of a type, scales included. */
double bits_of(kernels::WeightType type);

/** A matrix that may be rounded: what each body would cost of its output. */
struct Candidate {
    double weights = 0.0;  ///< how many
    std::span<const kernels::WeightType> types;
    std::span<const double> noise;  ///< [types] Σ (w − ŵ)² ÷ Σ w², measured
    double native_bits = 16.0;
};

/**
 * The price λ of a bit with which all matrices together have no more than `bits_each`, where each takes what makes noise + λ · weights · bits least. A
 * matrix' noise is that of its output relative to it, whatever its size, so small ones get more bits. λ also serves matrices that are met later.
 */
double price_of_a_bit(std::span<const Candidate> candidates, double bits_each);
/** What a candidate takes at that price; nothing: it stays as it is. */
std::optional<kernels::WeightType> choose(const Candidate& candidate, double price);

}  // namespace atlas::weights
