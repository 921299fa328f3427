#pragma once

#include <cstdint>

#include "base/status.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/product_arguments.h"
#include "kernels/weights.h"

namespace atlas::kernels::cuda {

/** The kernels' name of a type; false for those that they do not read. */
bool product_type_of(WeightType type, ProductType* product_type);

/** out = weights · activations, over memory of the device. Nothing is waited for. */
Status multiply(Device& device, const ProductArguments& arguments);
/** Activations for multiply(), likewise. */
Status quantise(Device& device, const QuantiseArguments& arguments);

/**
 * Rows [begin, end) of kernels::WeightProduct on a device over host memory (as attention.h: for tests and scripts/gpu_check.sh); activations are those that the CPU's
 * tables make. Unsupported: types other than those of product_type_of.
 */
Status multiply_weights(Device& device, const WeightProduct& product, int64_t begin, int64_t end);

/** What quantise() makes of columns of host memory: codes [n][k] and parts [n][k / 32]. For tests. */
Status quantise_activations(Device& device, const ActivationArgs& args, int64_t n, int8_t* codes,
                            ActivationPart* parts);

}  // namespace atlas::kernels::cuda
