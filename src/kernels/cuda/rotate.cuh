#pragma once

#include "kernels/cuda/geometry.cuh"
#include "kernels/cuda/sparse_arguments.h"

// The rotation of keys and queries (kernels::rotate_rows), and queries in eight bits. A warp per row.

namespace atlas::kernels::cuda {

/** Largest power of two that is not above n > 0. */
SIMT_DEVICE int power_below(int n) {
    int power = 1;
    while (power * 2 <= n) power *= 2;
    return power;
}

/** x [n] in shared memory becomes its Walsh–Hadamard transform times n^(−1/2); n a power of two. */
SIMT_DEVICE void transform(float* x, int n) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    for (int step = 1; step < n; step *= 2) {
        __syncwarp();
        for (int pair = lane; pair < n / 2; pair += 32) {
            const int i = pair / step * 2 * step + pair % step;
            const float a = x[i];
            const float b = x[i + step];
            x[i] = a + b;
            x[i + step] = a - b;
        }
    }
    __syncwarp();
    const float size = sqrtf(static_cast<float>(n));
    for (int i = lane; i < n; i += 32) x[i] /= size;
    __syncwarp();
}

/** x [d] in shared memory, which one warp has written: R x. Ends with a barrier of the warp. */
SIMT_DEVICE void rotate(const float* signs, int d, float* x) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    __syncwarp();
    for (int i = lane; i < d; i += 32) x[i] *= simt::read(signs + i);
    for (int begin = 0; begin < d;) {
        const int part = power_below(d - begin);
        transform(x + begin, part);
        begin += part;
    }
    if ((d & (d - 1)) == 0) return;
    for (int i = lane; i < d; i += 32) x[i] *= simt::read(signs + d + i);
    for (int end = d; end > 0;) {
        const int part = power_below(end);
        transform(x + end - part, part);
        end -= part;
    }
}

/** One row per warp, kSparseWarps per block. */
SIMT_DEVICE void prepare_rows(const PrepareArguments& a) {
    SIMT_SHARED(memory);
    simt::Carver carver(memory);
    float* buffers = carver.take<float>(kSparseWarps * kMaxHead);
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int row = static_cast<int>(blockIdx.x) * kSparseWarps + warp;
    if (row >= a.rows) return;
    float* x = buffers + warp * kMaxHead;
    const float* q = a.q + row % a.n_head * a.head_stride + row / a.n_head % a.n_tokens * a.token_stride +
                     row / a.n_head / a.n_tokens * a.stream_stride;
    for (int i = lane; i < a.d; i += 32) x[i] = i < a.d_k ? simt::read(q + i) * a.factor : 0.0f;
    if (a.signs) rotate(a.signs, a.d, x);
    float largest = 0;
    float square = 0;
    for (int i = lane; i < a.d; i += 32) {  // what this lane has written, or after rotate's barrier
        simt::write(a.exact + static_cast<int64_t>(row) * a.d + i, x[i]);
        largest = simt::larger(largest, fabsf(x[i]));
        square += x[i] * x[i];
    }
    if (!a.codes) return;
    largest = simt::most_over_lanes<1, 32>(largest);
    const float scale = largest / static_cast<float>(a.largest_code);
    int sum = 0;
    for (int i = lane; i < a.d; i += 32) {
        const int code = scale > 0.0f ? simt::round_to_even(simt::exact_quotient(x[i], scale)) : 0;
        simt::write(a.codes + static_cast<int64_t>(row) * a.d + i, static_cast<int8_t>(code));
        sum += code;
    }
    const float offset = -3.0f * simt::sum_over_lanes<1, 32>(static_cast<float>(sum));
    square = simt::sum_over_lanes<1, 32>(square);
    if (lane != 0) return;
    simt::write(a.scale + row, scale);
    simt::write(a.offset + row, offset);
    simt::write(a.squares + row, square);
}

}  // namespace atlas::kernels::cuda
