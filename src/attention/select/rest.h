#pragma once

#include <cstdint>
#include <vector>

#include "attention/plan/visibility.h"
#include "attention/select/scores.h"

namespace atlas::attention {

/**
 * Attention over the keys that were scored and not selected, from their weights and their pages' mean values: far_lse[row] (natural logarithm, −inf where
 * nothing is estimated) and far_out [row][d_v]. Of a page that a token sees in part, the mean is of the
 * keys that it sees.
 * Throws std::bad_alloc. Returns how many keys were left to the estimate, by the row that sees most.
 */
double estimate_rest(TileScores& scores, const std::vector<PageCells>& selected, float* far_lse, float* far_out);

}  // namespace atlas::attention
