#pragma once

#include <cstddef>
#include <cstdint>

namespace atlas::kernels::cuda::test {

/** Runs kernel number `kernel` of kernels.def in the emulator, instead of the driver. */
void run_emulated(uint32_t kernel, uint32_t grid_x, uint32_t grid_y, size_t shared_bytes, const void* arguments);

}  // namespace atlas::kernels::cuda::test
