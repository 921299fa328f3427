#pragma once

// CUDA's own types and words that need no more than a declaration. Static __shared__ variables are left out on purpose: kernels use the
// launch's dynamic shared memory alone, since a variable of a function cannot be one per block here.

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

#define __global__
#define __device__
#define __launch_bounds__(...)
#define SIMT_DEVICE inline

// What the emulator does for a kernel is no access of the kernel's: ThreadSanitizer must not see it.
#if defined(__clang__) || defined(__SANITIZE_THREAD__)
#define SIMT_QUIET __attribute__((no_sanitize("thread")))
#else
#define SIMT_QUIET
#endif
