#pragma once

#include <cstdint>
#include <vector>

namespace atlas::attention {

/**
 * Puts alike keys side by side: splits keys [n][d] by balanced bisection along principal directions into n / block groups of `block` keys
 * (n a multiple of it) and returns in order[n] the keys of group 0, then those of group 1 …, each group's ascending. Principal directions are found
 * by power iteration; keys that are not finite go anywhere, deterministically. Thread-safe. Throws std::bad_alloc.
 */
void group_alike(const float* keys, int64_t n, int64_t d, int64_t block, std::vector<int32_t>* order);

/** out[i] = rows[order[i]] for rows of d floats. */
void reorder_rows(const float* rows, const std::vector<int32_t>& order, int64_t d, float* out);

}  // namespace atlas::attention
