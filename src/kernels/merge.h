#pragma once

#include <cstdint>

namespace atlas::kernels {

/** Table::merge of the chosen table: merges attention over two disjoint key sets into `a` [d] and *lse_a (natural logs). */
void merge_partial(float* a, float* lse_a, const float* b, float lse_b, int64_t d);

}  // namespace atlas::kernels
