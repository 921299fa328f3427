#pragma once

#include <cstddef>
#include <cstdint>

namespace atlas::kernels {

/**
 * Activations in the form that llama.cpp's CPU backend gives them for a type of weights, so that products agree with its own up to the order of
 * their sums. Types of weights with the same type of activations can share one quantisation (Q, K and V; gate and up).
 */
enum class ActivationType : uint8_t {
    kF32,
    kF16,          ///< rounded to f16
    kBF16,         ///< rounded to bf16
    kQ8,           ///< blocks of 32: codes of 8 bits, a scale rounded to f16, and scale · Σ codes rounded to f16
    kQ8K,          ///< blocks of 256: codes of 8 bits and a scale in f32
    kShiftedBF16,  ///< of no type of llama.cpp: 2^80 times as large, rounded to bf16 (kernels/e4m3.h)
};

/** Types of weights that have kernels. Blocks are those of GGUF, but for the last one; src/kernels/reference/weights.cpp says what each holds. */
enum class WeightType : uint8_t {
    kF32,
    kF16,
    kBF16,
    kQ8_0,
    kQ4_0,
    kQ4_1,
    kQ5_0,
    kQ5_1,
    kIQ4_NL,
    kMXFP4,
    kQ2_K,
    kQ3_K,
    kQ4_K,
    kQ5_K,
    kQ6_K,
    kIQ4_XS,
    kE4M3,  ///< of no file: kernels/e4m3.h
};
inline constexpr int kWeightTypeCount = 17;

struct WeightTypeInfo {
    const char*
        name;  ///< as GGUF writes it, for example "q4_K"; one that is no type of GGUF has a name that none can have
    int32_t block_elements;  ///< elements per block, 1 for plain floats
    int32_t block_bytes;
    ActivationType activations;
};
const WeightTypeInfo& weight_type_info(WeightType type);

/** Bytes of a row of `cols` elements, a multiple of the type's block. */
size_t weight_row_bytes(WeightType type, int64_t cols);

/** A matrix of weights as a model file holds it: `rows` outputs of `cols` elements each. */
struct WeightMatrix {
    WeightType type;
    const std::byte* data;  ///< alignment 1; nothing is read outside the rows' own bytes
    int64_t rows;
    int64_t cols;       ///< a multiple of the type's block
    size_t row_stride;  ///< bytes from row to row, at least weight_row_bytes
};

/** What quantise_activations does: n columns of k elements each. */
struct ActivationArgs {
    ActivationType type;
    int64_t k;        ///< for kQ8 a multiple of 32, for kQ8K of 256
    const float* x;   ///< [n][k]
    size_t x_stride;  ///< bytes from column to column
    std::byte* out;   ///< activation_bytes(type, k, n), address divisible by 64
};

/** Bytes that n quantised columns take. */
size_t activation_bytes(ActivationType type, int64_t k, int64_t n);

/** Column j of a product with chosen columns: which quantised column it reads and which column of `out` it writes. */
struct ColumnPair {
    int32_t in;
    int32_t out;
};

/** out[j·out_stride + r] = Σ_i weights[r][i] · activations[j][i]. */
struct WeightProduct {
    WeightMatrix weights;
    const std::byte* activations;  ///< what quantise_activations wrote for the type's activations and k = weights.cols
    int64_t n;                     ///< columns
    float* out;                    ///< [n][rows]
    size_t out_stride;             ///< elements from column to column
    const ColumnPair* columns = nullptr;  ///< [n], where columns are chosen (experts); else column j reads and writes j
    /** What the calling thread will read after the rows of a call: brought near while it comes to their end. May be any address. */
    const std::byte* next = nullptr;
};

/** Ranges of rows that begin at a multiple of this, seen from row 0, make best use of the kernels' panels. */
inline constexpr int64_t kWeightPanel = 32;

// The entries of their names of the chosen table, where their contracts stand (kernels/kernel_table.h).

void quantise_activations(const ActivationArgs& args, int64_t begin, int64_t end);
void multiply_weights(const WeightProduct& product, int64_t begin, int64_t end);

/**
 * Where things are within one quantised column; offsets in bytes, all divisible by 64. Only kernels read this. Planes that a type has not have
 * offset 0. "Split" is the order in which four blocks of 32 share vectors: of each 128 elements first the elements 0–15 of the four blocks, then
 * 16–31, so that the nibbles of four blocks are two vectors; what is beyond k is 0 there.
 */
struct ActivationLayout {
    size_t values = 0;  ///< kF32, kF16: f32 [k]; kBF16, kShiftedBF16: bf16 [k]; zeros up to a multiple of 64 elements

    size_t high = 0;  ///< kF16: bf16 [k]: the values rounded to bf16; zeros up to a multiple of 64 elements
    size_t low = 0;   ///< kF16: bf16 [k]: the rest, which is a bf16 itself; 0 where a value is not finite

    // Zeros up to a multiple of 512 elements in all that follow.
    size_t codes = 0;        ///< i8 [k] in their own order
    size_t split_codes = 0;  ///< i8 [k] in split order
    size_t scales = 0;       ///< f32 per block
    size_t sums = 0;         ///< i32 per 32 (kQ8) or 16 (kQ8K) codes: their sum
    size_t short_sums = 0;   ///< kQ8K: the same as i16
    size_t byte_sums =
        0;  ///< kQ8K: i8 per block: sum / 64 rounded down of each 16 codes, [16], then what is left of each, [16]
    size_t offsets = 0;  ///< kQ8: f32 per block: scale · sum, rounded to f16
    size_t lane_sums =
        0;  ///< i32 [ceil(k/128)][16]: sums of the codes that fall into a 32-bit lane in split order, both halves

    size_t bytes = 0;  ///< of a column: an odd multiple of 64, so that neighbours do not share cache sets

    ActivationLayout(ActivationType type, int64_t k);
};

}  // namespace atlas::kernels
