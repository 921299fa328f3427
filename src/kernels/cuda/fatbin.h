#pragma once

#include <cstddef>
#include <span>

namespace atlas::kernels::cuda {

/** The compiled kernels, for Device::open; empty where the build had no nvcc (no_cuda/fatbin.cpp). */
std::span<const std::byte> fatbin();

/** What they were compiled for: "sm_75 sm_80 … compute_80", empty without nvcc. */
const char* fatbin_architectures();

}  // namespace atlas::kernels::cuda
