#pragma once

#include <cstdint>

#include "kernels/attention.h"

namespace atlas::kernels::cpu {

/** What is visible of each kBlockKeys of n mask values: out[ceil(n / kBlockKeys)]. */
void classify_blocks(const uint16_t* mask, int64_t n, BlockVisibility* out);

}  // namespace atlas::kernels::cpu
