#pragma once

#include <cstdint>

namespace atlas::kernels::cuda::test {

/** Runs kernel number `kernel` of kernels.def in the emulator, instead of the driver. */
void run_emulated(uint32_t kernel, uint32_t grid_x, uint32_t grid_y, const void* arguments);

}  // namespace atlas::kernels::cuda::test
