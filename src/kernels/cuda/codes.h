#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "kernels/codes.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/sparse_arguments.h"

namespace atlas::kernels::cuda {

// Entries of kernels/codes.def on a device over host memory (as attention.h: for tests and scripts/gpu_check.sh), by the kernels of sparse.h. Unsupported: keys
// and values of more than kMaxHead elements.

/** *finite: whether the page can be used. */
Status encode_codes(Device& device, const CodeShape& shape, const float* keys, const float* values, std::byte* page,
                    bool* finite);
Status quantise_queries(Device& device, const float* exact, int64_t rows, int64_t d, int8_t* codes, float* scale,
                        float* offset, float* squares);
Status rotate_rows(Device& device, const float* signs, int64_t rows, int64_t d, float* x);
Status score_codes(Device& device, const CodeShape& shape, const CodeQueries& queries, const std::byte* page,
                   float* logits);

/** kernels::CodeShape as kernels have it. */
CodeLayout layout_of(const CodeShape& shape);

}  // namespace atlas::kernels::cuda
