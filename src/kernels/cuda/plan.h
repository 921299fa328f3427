#pragma once

#include <cstdint>

#include "base/data_type.h"
#include "base/status.h"
#include "kernels/attention.h"
#include "kernels/cuda/kernel.h"

namespace atlas::kernels::cuda {

/** The kernels' name of a type; false for those that they do not read. */
bool row_type_of(DataType type, RowType* row_type);
DataType data_type_of(RowType type);

/** Why the kernels cannot run `args`: types, head sizes and their multiples, heads. Looks at no data. */
Status check_attention(const AttentionArgs& args);

/** What tests force; 0 leaves the choice to the plan. */
struct AttentionTuning {
    int splits = 0;
    int rows = 0;  ///< of a block: 1 or 4 by streaming, 16 or 64 on tensor cores (32 instead of 64 beyond heads of 128)
};

/** How an attention call is launched. */
struct AttentionPlan {
    Kernel kernel;
    int rows;        ///< of a block
    int row_blocks;  ///< per list
    int splits;      ///< blocks that share out a list's pages
};

/**
 * Few rows are streamed, where each row of K and V is read once; many go to tensor cores, unless K or V is bf16, whose range f16 does not have. Pages
 * are split until every multiprocessor has blocks enough to hide the latency of memory.
 * `list_rows`: tokens of a tile times query heads of a group; `list_pages`: of the longest list.
 */
AttentionPlan plan_attention(const AttentionArgs& args, int64_t lists, int64_t list_rows, int64_t list_pages,
                             int multiprocessors, const AttentionTuning& tuning);

}  // namespace atlas::kernels::cuda
