#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/weights.h"

namespace atlas::kernels::cuda {

/** A product of quantised weights with columns of activations in eight bits. */
struct ProductShape {
    const char* name;
    WeightType type;
    int32_t rows, cols, columns;
};

/** Prints a line of JSON. */
void measure_product(Device& device, const ProductShape& shape, int repetitions);

}  // namespace atlas::kernels::cuda
