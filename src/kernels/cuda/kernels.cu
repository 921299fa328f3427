// The fatbin: kernels.def instantiated by nvcc. Tests compile the same functions with the emulator (tests/cuda/emulated_kernels.cpp).
#include "kernels/cuda/decode.cuh"
#include "kernels/cuda/encode.cuh"
#include "kernels/cuda/products.cuh"
#include "kernels/cuda/rest.cuh"
#include "kernels/cuda/tiles.cuh"
#include "kernels/cuda/write_rows.cuh"

namespace atlas::kernels::cuda {

// One block per multiprocessor is what is asked for at least: without that number ptxas spills at 128 and 168 registers, to fit more.
#define ATLAS_CUDA_KERNEL(name, Arguments, threads, shared, function) \
    extern "C" __global__ void __launch_bounds__(threads, 1)          \
        atlas_##name(const __grid_constant__ Arguments arguments) {   \
        function(arguments);                                          \
    }
#include "kernels/cuda/kernels.def"

}  // namespace atlas::kernels::cuda
