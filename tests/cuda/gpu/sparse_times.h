#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"

namespace atlas::kernels::cuda {

/** One token over far keys in f16, of which so many are selected for each KV head. */
struct SparseShape {
    const char* name;
    const char* encode_name;  ///< of the codes' making
    int32_t d, heads, heads_kv, keys;
    int64_t selected;
};

/** Prints a line of JSON for the codes of all pages, and one for a token's attention, all its launches. */
void measure_sparse(Device& device, const SparseShape& shape, int repetitions);

}  // namespace atlas::kernels::cuda
