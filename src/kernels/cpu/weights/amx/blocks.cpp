#include "kernels/cpu/weights/amx/amx.h"
#include "kernels/cpu/weights/amx/parts.h"

namespace atlas::kernels::cpu {

void multiply_blocks_amx(const WeightProduct& product, int64_t begin, int64_t end) {
    weight_type_info(product.weights.type).block_elements == 32 ? multiply_32_amx(product, begin, end)
                                                                : multiply_256_amx(product, begin, end);
}

}  // namespace atlas::kernels::cpu
