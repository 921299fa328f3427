#pragma once

#include <cstdint>

#include "kernels/attention.h"

namespace atlas::kernels {

/**
 * One row (token and head of a stream) of what attention() computes, in float64, cell by cell; hidden cells are never read. A visible score
 * that is NaN makes the row and its lse NaN. `args` has passed check_attention. Allocates nothing; thread-safe for different rows.
 */
void attend_row_reference(const AttentionArgs& args, int64_t stream, int64_t token, int64_t head);

}  // namespace atlas::kernels
