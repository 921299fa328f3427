#pragma once

#include <cstddef>
#include <cstdint>

// Many-query attention on Intel's tiles (AMX). An f32 number is the sum of two bf16, its upper eight bits and the rest, which leaves out at most
// 2⁻¹⁸ of it (nothing of an f16); of the product of two such sums the product of the rests is left out. So a product is off by 2⁻¹⁶ at most, and a
// sum of products, in f32, by a small part of that. no_amx/ has the same for other processors; nothing of it may be called unless amx_usable().

namespace atlas::kernels::cpu {

/** Rows of the left operand that are multiplied at once; columns of the right one, as well. */
inline constexpr int64_t kSplitRows = 32;
/** Elements that are summed per step: widths and depths are padded with zeros to multiples of it. */
inline constexpr int64_t kSplitStep = 32;

/** Upper parts and rests of a left operand: bf16 [rows][stride]. */
struct SplitRows {
    uint16_t* high;
    uint16_t* rest;
    int64_t stride;  ///< elements between rows, a multiple of kSplitStep

    SplitRows at(int64_t row) const { return {high + row * stride, rest + row * stride, stride}; }
};

/** Of a right operand: words of two bf16 that follow each other in depth, [depth / 2][stride]. */
struct SplitPairs {
    uint32_t* high;
    uint32_t* rest;
    int64_t stride;  ///< words between pairs of depth, a multiple of kSplitRows
    bool whole;      ///< rests are all zero and not read

    SplitPairs at(int64_t pair, int64_t column) const {
        const int64_t offset = pair * stride + column;
        return {high + offset, rest + offset, stride, whole};
    }
};

/** Shapes the calling thread's tiles; `before` (64 bytes, aligned so) gets what they were. */
void shape_split_tiles(std::byte* before);
/** Gives them their shapes back. */
void unshape_split_tiles(const std::byte* before);

/** Tiles have the right shapes while it lives, on the thread that made it. */
class SplitScope {
public:
    SplitScope() { shape_split_tiles(before_); }
    ~SplitScope() { unshape_split_tiles(before_); }
    SplitScope(const SplitScope&) = delete;
    SplitScope& operator=(const SplitScope&) = delete;

private:
    alignas(64) std::byte before_[64];
};

/** to[0 … count) = factor · from, zeros up to the stride; `from` null: zeros. */
void split_row(const float* from, int64_t count, float factor, SplitRows to);
/**
 * 16 rows of `count` elements become 16 columns: from [16][from_stride], of which whole multiples of kSplitStep elements are read, to [count / 2][…].
 */
void split_columns(const float* from, int64_t from_stride, int64_t count, SplitPairs to);
/** Two rows become a row of pairs: `count` elements, a multiple of 16. */
void split_pair(const float* first, const float* second, int64_t count, SplitPairs to);

/**
 * 64 base-2 logits of a row become weights 2^(score − max), split; `max`, one number, and `sum`, 16 lanes, are the row's so far. A max that is
 * exceeded by more than `slack` is raised: returns the factor by which what was summed must then be scaled, else 1.
 */
float split_weights(const float* scores, float slack, float* max, float* sum, SplitRows to);

/**
 * out[rows][columns] = left · right over `depth`, or added to out: rows 16 or kSplitRows, columns a multiple of kSplitRows, depth of kSplitStep;
 * out_stride in floats. Within a SplitScope of the thread.
 */
void split_product(SplitRows left, SplitPairs right, int64_t rows, int64_t columns, int64_t depth, bool add, float* out,
                   int64_t out_stride);

}  // namespace atlas::kernels::cpu
