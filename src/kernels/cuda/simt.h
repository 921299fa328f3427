#pragma once

// The words in which kernels are written: CUDA's own, where it has them (threadIdx, __syncthreads, __shfl_xor_sync, …), and functions of
// atlas::simt for what it offers as PTX or what an emulator must see (memory of the device, asynchronous copies, tensor cores). One source
// compiles with nvcc and, for tests, under any C++20 compiler with the emulator of tests/cuda/emulator. Shared memory is the launch's dynamic
// one alone, handed out by a Carver. What each function means stands at the emulator's twin.

#ifdef __CUDACC__
#include "kernels/cuda/simt_device.h"
#else
#include "emulator/emulator.h"
#endif

namespace atlas::simt {

template <class T>
SIMT_DEVICE T smaller(T a, T b) {
    return a < b ? a : b;
}
template <class T>
SIMT_DEVICE T larger(T a, T b) {
    return a > b ? a : b;
}

inline constexpr unsigned kWholeWarp = ~0u;

/** Sum over the lanes whose numbers differ in the bits from `from` up to, not including, `to` (powers of two). */
template <int kFrom, int kTo>
SIMT_DEVICE float sum_over_lanes(float x) {
#pragma unroll
    for (int other = kFrom; other < kTo; other *= 2) x += __shfl_xor_sync(kWholeWarp, x, other);
    return x;
}
template <int kFrom, int kTo>
SIMT_DEVICE float most_over_lanes(float x) {
#pragma unroll
    for (int other = kFrom; other < kTo; other *= 2) x = larger(x, __shfl_xor_sync(kWholeWarp, x, other));
    return x;
}

}  // namespace atlas::simt
