#pragma once

#include <cstddef>
#include <cstdint>

#include "base/data_type.h"

// Before loops of constant length over registers: at -O2 gcc keeps such loops, and their arrays in memory (measured: 4x slower).
#if defined(__clang__)
#define ATLAS_UNROLL _Pragma("clang loop unroll(full)")
#else
#define ATLAS_UNROLL _Pragma("GCC unroll 16")
#endif

namespace atlas::kernels::cpu {

/** Dimensions of q rows are padded with zeros to a multiple of this, so that loops need no tail on the query's side. */
inline constexpr size_t kChunk = 32;

/** Rows of K or V: row j begins at at[j] + shift. */
struct RowSet {
    const std::byte* const* at;
    int64_t shift;
    int64_t stride;  ///< bytes from each row to the next, or 0 if they are not evenly spaced
};

/**
 * s[h·s_stride + j] = Σ_i q[h·q_stride + i] · K[j][i] for h < heads, j < count; rows of d elements. The rows at next[j] + k.shift, if `next` is
 * not nullptr, are asked for from memory meanwhile, for j < count rounded up to a multiple of 4.
 */
using ScoreFn = void (*)(const float* q, size_t q_stride, size_t heads, const RowSet& k, size_t count, size_t d,
                         float* s, size_t s_stride, const std::byte* const* next);
/** o[h·o_stride + i] += Σ_j p[h·p_stride + j] · V[j][i]; `o` rows are padded to a multiple of kChunk. `next` as above. */
using ValueFn = void (*)(const float* p, size_t p_stride, size_t heads, const RowSet& v, size_t count, size_t d,
                         float* o, size_t o_stride, const std::byte* const* next);
/** out[j·out_stride + i] = rows[j][i] as f32. */
using DecodeFn = void (*)(const std::byte* rows, size_t stride, size_t count, size_t d, float* out, size_t out_stride);

/** One SIMD variant of everything that depends on the width of vectors. */
struct CpuOps {
    int64_t target;                   ///< Highway's number of the target this table was compiled for
    ScoreFn score[kDataTypeCount];    ///< by K type; kOther has none
    ValueFn value[kDataTypeCount];    ///< by V type
    DecodeFn decode[kDataTypeCount];  ///< by type

    /** Largest of n values; NaN is passed over. */
    float (*max)(const float* values, size_t n);
    /** values[i] = exp(values[i] − shift), exactly 0 for −inf, NaN for NaN; returns their sum. */
    float (*exp_sum)(float* values, size_t n, float shift);
    /** values[i] *= factor. */
    void (*scale)(float* values, size_t n, float factor);
    /** Whether all n values are finite. */
    bool (*finite)(const float* values, size_t n);
    /** values[i] = cap · tanh(values[i]). */
    void (*soft_cap)(float* values, size_t n, float cap);
};

/** The table of the variant in use. */
const CpuOps& cpu_ops();

}  // namespace atlas::kernels::cpu
