#include "kernels/cpu/attention/split_products.h"

namespace atlas::kernels::cpu {

void shape_split_tiles(std::byte*) {}
void unshape_split_tiles(const std::byte*) {}
void split_row(const float*, int64_t, float, SplitRows) {}
void split_columns(const float*, int64_t, int64_t, SplitPairs) {}
void split_pair(const float*, const float*, int64_t, SplitPairs) {}
float split_weights(const float*, float, float*, float*, SplitRows) { return 1.0f; }
void split_product(SplitRows, SplitPairs, int64_t, int64_t, int64_t, bool, float*, int64_t) {}

}  // namespace atlas::kernels::cpu
