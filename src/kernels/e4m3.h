#pragma once

#include <cstddef>

namespace atlas::kernels {

/**
 * Blocks of WeightType::kE4M3: 64 weights that share a power of two, code by code sign, four bits of exponent and three of fraction:
 *     u8 s, u8 code[64]: weight = 2^(s − 127) · (−1)^sign · (1 + fraction / 8) · 2^(exponent − 7), and 0 where all but the sign is 0.
 * It is OCP's E4M3 but for subnormals (exponent 0, fraction not 0) and NaN: no block holds any, so that codes become bf16 by a shift and a mask. What is
 * below 2⁻⁶ is 2⁻¹⁵ of the largest number, so nothing is lost. A power of two as scale keeps every weight a bf16, exactly.
 * Elements i and 32 + i are neighbours, at code[2i] and code[2i + 1]: the lower and upper bytes of a vector's words are each in the order of k.
 */
inline constexpr size_t kE4M3Block = 64;
inline constexpr size_t kE4M3BlockBytes = 65;

/**
 * Activations are 2^80 times what they are, rounded to bf16: a code's bits, shifted into a bf16's exponent, are 2^−120 times its number, and the product of
 * both has the size that single precision wants. Activations beyond 2^47 count as infinite.
 */
inline constexpr int kE4M3ActivationShift = 80;
/** Least and most of s: weights between 2^−46 and 2^17 are all there. */
inline constexpr int kE4M3LeastScale = 87;
inline constexpr int kE4M3MostScale = 135;

}  // namespace atlas::kernels
