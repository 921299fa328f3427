#include "emulated_kernels.h"

#include "kernels/cuda/decode.cuh"
#include "kernels/cuda/encode.cuh"
#include "kernels/cuda/kernel.h"
#include "kernels/cuda/products.cuh"
#include "kernels/cuda/rest.cuh"
#include "kernels/cuda/tiles.cuh"
#include "kernels/cuda/write_rows.cuh"

namespace atlas::kernels::cuda::test {
namespace {

using Run = void (*)(dim3 grid, const KernelInfo& info, size_t shared_bytes, const void* arguments);

// As kernels.cu: one function with one argument each.
constexpr Run kRuns[] = {
#define ATLAS_CUDA_KERNEL(name, Arguments, block, bytes, function)                                          \
    [](dim3 grid, const KernelInfo& info, size_t shared_bytes, const void* arguments) {                     \
        simt::launch<Arguments>([](Arguments a) { function(a); }, grid, {info.threads, 1, 1}, shared_bytes, \
                                *static_cast<const Arguments*>(arguments));                                 \
    },
#include "kernels/cuda/kernels.def"
};

}  // namespace

void run_emulated(uint32_t kernel, uint32_t grid_x, uint32_t grid_y, size_t shared_bytes, const void* arguments) {
    kRuns[kernel]({grid_x, grid_y, 1}, kKernels[kernel], shared_bytes, arguments);
}

}  // namespace atlas::kernels::cuda::test
