// The fatbin: kernels.def instantiated by nvcc. Tests compile the same functions with the emulator (tests/cuda/emulated_kernels.cpp).
#include "kernels/cuda/decode.cuh"
#include "kernels/cuda/tiles.cuh"
#include "kernels/cuda/write_rows.cuh"

namespace atlas::kernels::cuda {

#define ATLAS_CUDA_KERNEL(name, Arguments, threads, shared, function)                                                 \
    extern "C" __global__ void __launch_bounds__(threads) atlas_##name(const __grid_constant__ Arguments arguments) { \
        function(arguments);                                                                                          \
    }
#include "kernels/cuda/kernels.def"

}  // namespace atlas::kernels::cuda
