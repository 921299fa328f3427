#pragma once

#include <cstdint>

#include "kernels/cpu/attention/problem.h"

namespace atlas::kernels::cpu {

/**
 * To be called when the result of a row is written. Rows of a tile share their pass over V, and a cell that some of them do not see meets their
 * weight 0; if the cell holds NaN or an infinity, 0 times it is NaN, in rows of another sequence too. Such a result is computed again, over the
 * visible cells alone and in float64. Nothing happens to finite results, nor where there is no mask.
 */
void mend_row(const Problem& problem, int64_t stream, int64_t token, int64_t head);

}  // namespace atlas::kernels::cpu
