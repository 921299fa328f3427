#pragma once

#include "kernels/cuda/rotate.cuh"

// Codes of a page from its keys and values: kernels::Table's encode_codes, from rows in the cache's own format. A block takes one page of one KV head; its warps
// read each key twice, for the mean and for what is left of it: the second time it comes out of a cache.

namespace atlas::kernels::cuda {

/** Element i of a row. */
SIMT_DEVICE float element(RowType type, const unsigned char* row, int i) {
    switch (type) {
        case RowType::kF16:
            return simt::half_to_float(simt::read(reinterpret_cast<const uint16_t*>(row) + i));
        case RowType::kBF16:
            return simt::bits_to_float(static_cast<uint32_t>(simt::read(reinterpret_cast<const uint16_t*>(row) + i))
                                       << 16);
        case RowType::kQ8_0: {
            const unsigned char* block = row + i / 32 * 34;
            return simt::half_to_float(simt::read(reinterpret_cast<const uint16_t*>(block))) *
                   static_cast<float>(simt::read(reinterpret_cast<const int8_t*>(block + 2 + i % 32)));
        }
        case RowType::kQ4_0: {
            const unsigned char* block = row + i / 32 * 18;
            const int byte = simt::read(block + 2 + i % 16);
            return simt::half_to_float(simt::read(reinterpret_cast<const uint16_t*>(block))) *
                   static_cast<float>((i % 32 < 16 ? byte & 15 : byte >> 4) - 8);
        }
        default:
            return simt::read(reinterpret_cast<const float*>(row) + i);
    }
}

/** Rounds x [n] to bytes at `to`, times what makes the largest 127; the scale. One warp; x in shared memory, becomes what `to` says. */
SIMT_DEVICE float round_mean(float* x, int n, unsigned char* to) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float largest = 0;
    for (int i = lane; i < n; i += 32) largest = simt::larger(largest, fabsf(x[i]));
    const float scale = simt::most_over_lanes<1, 32>(largest) / 127.0f;
    for (int i = lane; i < n; i += 32) {
        const int code = scale > 0.0f ? simt::round_to_even(simt::exact_quotient(x[i], scale)) : 0;
        simt::write(to + i, static_cast<unsigned char>(code));
        x[i] = scale * static_cast<float>(code);
    }
    return scale;
}

/** The codes of one key, y = x − mean: its part of the page's noise. One warp. */
SIMT_DEVICE float encode_key(const CodeLayout& layout, const float* x, const float* mean, int key,
                             unsigned char* page) {
    constexpr int kParts = kMaxHead / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int d = layout.d;
    float y[kParts];
    float square = 0;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
        const int i = part * 32 + lane;
        y[part] = i < d ? x[i] - mean[i] : 0.0f;
        square += y[part] * y[part];
    }
    square = simt::sum_over_lanes<1, 32>(square);
    const float step = 0.9957f * sqrtf(square / static_cast<float>(d));
    float along = 0;
    float size = 0;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
        if (part * 32 >= d) continue;
        const bool there = part * 32 + lane < d;
        const bool far = fabsf(y[part]) > step;
        const bool negative = (simt::float_to_bits(y[part]) >> 31) != 0;
        if (there) {
            along += fabsf(y[part]) * (far ? 3.0f : 1.0f);
            size += far ? 9.0f : 1.0f;
        }
        // (c + 3) / 2 of −3, −1, 1, 3; a word has the sixteen of half a warp.
        const uint32_t level = negative ? (far ? 0u : 1u) : (far ? 3u : 2u);
        uint32_t word = level << (8 * (lane % 4) + 2 * (lane % 16 / 4));
#pragma unroll
        for (int other = 1; other < 16; other *= 2) word |= __shfl_xor_sync(simt::kWholeWarp, word, other);
        if (there && lane % 16 == 0) {
            simt::write(reinterpret_cast<uint32_t*>(page) + (part * 2 + lane / 16) * kPageKeys + key, word);
        }
    }
    along = simt::sum_over_lanes<1, 32>(along);
    size = simt::sum_over_lanes<1, 32>(size);
    const float scale = square > 0.0f ? square / along : 0.0f;
    if (lane == 0) {
        simt::write(reinterpret_cast<uint16_t*>(page + layout.key_scale) + key,
                    simt::float_to_half(simt::smaller(scale, 65504.0f)));
    }
    return simt::larger(scale * scale * size - square, 0.0f) / (2.0f * static_cast<float>(d) * kPageKeys);
}

SIMT_DEVICE void encode_pages(const EncodeArguments& a) {
    constexpr int kThreads = kSparseWarps * 32;
    SIMT_SHARED(memory);
    simt::Carver carver(memory);
    float* rows = carver.take<float>(kSparseWarps * kMaxHead);
    float* sums = carver.take<float>(kSparseWarps * 2 * kMaxHead);  // [warp][keys, values][kMaxHead]
    float* means = carver.take<float>(2 * kMaxHead);
    float* noises = carver.take<float>(kSparseWarps);

    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int head = static_cast<int>(blockIdx.y);
    const FarPage* at = a.pages + blockIdx.x;
    const auto* addresses = reinterpret_cast<const uint64_t*>(at);
    const auto* k = reinterpret_cast<const unsigned char*>(simt::read(addresses)) + head * a.k_head_stride;
    const auto* v = reinterpret_cast<const unsigned char*>(simt::read(addresses + 1)) + head * a.v_head_stride;
    auto* page = reinterpret_cast<unsigned char*>(simt::read(addresses + 2)) + head * a.code_head_stride;
    const int d = a.layout.d;
    float* row = rows + warp * kMaxHead;
    float* mine = sums + warp * 2 * kMaxHead;
    const auto load_key = [&](int key) {
        __syncwarp();  // the last one's elements have been read
        for (int i = lane; i < d; i += 32) row[i] = i < a.d_k ? element(a.k_type, k + key * a.k_stride, i) : 0.0f;
        if (a.signs) rotate(a.signs, d, row);
        __syncwarp();
    };

    for (int i = lane; i < kMaxHead; i += 32) mine[i] = mine[kMaxHead + i] = 0;
    for (int key = warp; key < kPageKeys; key += kSparseWarps) {
        load_key(key);
        // Each time a 64th, so that large keys do not overflow.
        for (int i = lane; i < d; i += 32) mine[i] += row[i] / kPageKeys;
        for (int i = lane; i < a.layout.d_v; i += 32) {
            mine[kMaxHead + i] += element(a.v_type, v + key * a.v_stride, i) / kPageKeys;
        }
    }
    __syncthreads();
    bool bad = false;
    for (int i = static_cast<int>(threadIdx.x); i < 2 * kMaxHead; i += kThreads) {
        float sum = 0;
        for (int w = 0; w < kSparseWarps; ++w) sum += sums[w * 2 * kMaxHead + i];
        means[i] = sum;
        bad |= !is_finite(sum);
    }
    const bool broken = __syncthreads_or(bad) != 0;
    if (threadIdx.x == 0) simt::write(a.broken + blockIdx.x * gridDim.y + blockIdx.y, broken ? 1u : 0u);
    if (broken) return;
    auto* factors = reinterpret_cast<float*>(page + a.layout.factors);
    if (warp < 2) {
        const float scale = warp == 0 ? round_mean(means, d, page + a.layout.mean)
                                      : round_mean(means + kMaxHead, a.layout.d_v, page + a.layout.value_mean);
        if (lane == 0) simt::write(factors + warp, scale);
    }
    __syncthreads();
    float noise = 0;
    for (int key = warp; key < kPageKeys; key += kSparseWarps) {
        load_key(key);
        noise += encode_key(a.layout, row, means, key, page);
    }
    if (lane == 0) noises[warp] = noise;
    __syncthreads();
    if (threadIdx.x != 0) return;
    float all = 0;
    for (int w = 0; w < kSparseWarps; ++w) all += noises[w];
    simt::write(factors + 2, all);
}

}  // namespace atlas::kernels::cuda
