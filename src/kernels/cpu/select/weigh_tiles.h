#pragma once

#include "kernels/codes.h"

// Scores of codes for many queries on Intel's tiles (AMX); no_amx/ has the same for other processors.

namespace atlas::kernels::cpu {

/** Whether weigh_codes_tiles can be called: there is AMX, the rows are worth it, and keys fill whole tiles. */
bool can_weigh_in_tiles(const CodeShape& shape, int64_t rows);

/** weigh_codes where can_weigh_in_tiles(). */
void weigh_codes_tiles(const CodeShape& shape, const CodeQueries& queries, const std::byte* page,
                       const std::byte* ahead, const float* shift, float* weights, float* sums, float* most);

}  // namespace atlas::kernels::cpu
