#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/product_arguments.h"
#include "kernels/cuda/shapes.h"
#include "kernels/cuda/sparse_arguments.h"

namespace atlas::kernels::cuda {

/** Every kernel of kernels.def. */
enum class Kernel : uint32_t {
#define ATLAS_CUDA_KERNEL(name, Arguments, threads, shared, function) name,
#include "kernels/cuda/kernels.def"
};

struct KernelInfo {
    const char* name;       ///< of the function in the fatbin: "atlas_decode_1x64"
    uint32_t threads;       ///< of a block
    size_t shared_bytes;    ///< dynamic shared memory of a block, at most
    size_t argument_bytes;  ///< of its one argument
};

inline constexpr KernelInfo kKernels[] = {
#define ATLAS_CUDA_KERNEL(name, Arguments, threads, shared, function) \
    {"atlas_" #name, threads, shared, sizeof(Arguments)},
#include "kernels/cuda/kernels.def"
};
inline constexpr size_t kKernelCount = sizeof kKernels / sizeof kKernels[0];

inline const KernelInfo& info_of(Kernel kernel) { return kKernels[static_cast<size_t>(kernel)]; }

}  // namespace atlas::kernels::cuda
