#pragma once

#include "base/status.h"
#include "kernels/attention.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/plan.h"

namespace atlas::kernels::cuda {

/**
 * The operation that AttentionArgs describes, on a device, over host memory: everything is copied there and back for each call. That is for tests,
 * for scripts/gpu_check.sh and for ATLAS_KERNEL=cuda, not for speed: in production K and V lie in the device's pages.
 * Errors: what check_attention says, what the driver says; `out` is then undefined. Rows on tensor cores are as exact as f16 is.
 */
Status attention(Device& device, const AttentionArgs& args, const AttentionTuning& tuning = {});

}  // namespace atlas::kernels::cuda
