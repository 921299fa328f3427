#pragma once

#include <cstddef>
#include <cstdint>

#include "base/data_type.h"
#include "kernels/cpu/vectors.h"

namespace atlas::kernels::cpu {

/** Rows of K or V: row j begins at at[j] + shift. */
struct RowSet {
    const std::byte* const* at;
    int64_t shift;
    int64_t stride;  ///< bytes from each row to the next, or 0 if they are not evenly spaced
};

/** What few queries do with rows of one type, in the instruction set in use. */
struct RowOps {
    /**
     * s[h·s_stride + j] = Σ_i q[h·q_stride + i] · K[j][i] for h < heads, j < count; rows of d elements. The rows at next[j] + k.shift, if `next`
     * is not nullptr, are asked for from memory meanwhile, for j < count rounded up to a multiple of 4.
     */
    void (*score)(const float* q, size_t q_stride, size_t heads, const RowSet& k, size_t count, size_t d, float* s,
                  size_t s_stride, const std::byte* const* next);
    /** o[h·o_stride + i] += Σ_j p[h·p_stride + j] · V[j][i]; `o` rows are padded to a multiple of kChunk. `next` as above. */
    void (*value)(const float* p, size_t p_stride, size_t heads, const RowSet& v, size_t count, size_t d, float* o,
                  size_t o_stride, const std::byte* const* next);
};

/** Those of a type; of f32 for kOther, whose rows are decoded first. */
RowOps row_ops(DataType type);

// One file per type in few/, so that compilers can work on them side by side.
RowOps row_ops_f32();
RowOps row_ops_f16();
RowOps row_ops_bf16();
RowOps row_ops_q8_0();
RowOps row_ops_q4_0();
RowOps row_ops_q4_1();
RowOps row_ops_q5_0();
RowOps row_ops_q5_1();
RowOps row_ops_iq4_nl();

}  // namespace atlas::kernels::cpu
