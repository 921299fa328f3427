#pragma once

#include "kernels/cuda/arguments.h"
#include "kernels/cuda/shapes.h"
#include "kernels/cuda/simt.h"

// New rows of K or V into the pages of a cache. One block per row, one warp per 32 elements at a time.

namespace atlas::kernels::cuda {

SIMT_DEVICE uint16_t float_to_bf16(float x) {  // to the nearest, ties to even; a NaN stays one
    const uint32_t bits = simt::float_to_bits(x);
    return (bits & 0x7FFFFFFFu) > 0x7F800000u ? static_cast<uint16_t>(bits >> 16 | 64)
                                              : static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

/** 1 / scale, 0 for 0. */
SIMT_DEVICE float inverse_of(float scale) { return scale != 0.0f ? simt::exact_quotient(1.0f, scale) : 0.0f; }

/** A block of 32 elements, one per lane: bit for bit what GGUF's quantiser makes, which rounds every product and sum. */
SIMT_DEVICE void write_q8_0(float x, int lane, unsigned char* block) {
    const float largest = simt::most_over_lanes<1, 32>(fabsf(x));
    const float scale = simt::exact_quotient(largest, 127.0f);
    const auto quant =
        static_cast<uint32_t>(static_cast<int>(roundf(simt::exact_product(x, inverse_of(scale))))) & 0xFFu;
    const uint32_t other = __shfl_xor_sync(simt::kWholeWarp, quant, 1);
    auto* out = reinterpret_cast<uint16_t*>(block);
    if (lane == 0) simt::write(out, simt::float_to_half(scale));
    if (lane % 2 == 0) simt::write(out + 1 + lane / 2, static_cast<uint16_t>(quant | other << 8));
}

SIMT_DEVICE void write_q4_0(float x, int lane, unsigned char* block) {
    // The first element of largest magnitude, sign kept, maps to the lowest quant.
    const float largest = simt::most_over_lanes<1, 32>(fabsf(x));
    const unsigned holders = __ballot_sync(simt::kWholeWarp, fabsf(x) == largest);
    const float extreme = __shfl_sync(simt::kWholeWarp, x, holders ? simt::lowest_bit(holders) : 0);
    const float scale = simt::exact_quotient(extreme, -8.0f);
    const float level = simt::exact_sum(simt::exact_sum(simt::exact_product(x, inverse_of(scale)), 8.0f), 0.5f);
    const auto quant = static_cast<uint32_t>(simt::smaller(15, simt::larger(0, static_cast<int>(level))));
    const uint32_t byte = quant | __shfl_xor_sync(simt::kWholeWarp, quant, 16) << 4;  // right in the lower half
    const uint32_t other = __shfl_xor_sync(simt::kWholeWarp, byte, 1);
    auto* out = reinterpret_cast<uint16_t*>(block);
    if (lane == 0) simt::write(out, simt::float_to_half(scale));
    if (lane < 16 && lane % 2 == 0) simt::write(out + 1 + lane / 2, static_cast<uint16_t>(byte | other << 8));
}

SIMT_DEVICE void write_rows(const WriteArguments& a) {
    const int row = static_cast<int>(blockIdx.x);
    const int64_t cell = simt::read(a.cells + row);
    if (cell < 0) return;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const uint64_t page = simt::read(reinterpret_cast<const uint64_t*>(a.pages) + cell / kPageKeys);
    unsigned char* to = reinterpret_cast<unsigned char*>(page) + cell % kPageKeys * a.row_stride + a.offset;
    const float* from = a.source + row * a.source_stride;
    for (int begin = warp * 32; begin < a.n; begin += kWriteWarps * 32) {
        const bool there = begin + lane < a.n;
        const float x = there ? simt::read(from + begin + lane) : 0.0f;
        if (a.type == RowType::kQ8_0) {
            write_q8_0(x, lane, to + begin / 32 * 34);
        } else if (a.type == RowType::kQ4_0) {
            write_q4_0(x, lane, to + begin / 32 * 18);
        } else if (there) {
            simt::write(reinterpret_cast<uint16_t*>(to) + begin + lane,
                        a.type == RowType::kF16 ? simt::float_to_half(x) : float_to_bf16(x));
        }
    }
}

}  // namespace atlas::kernels::cuda
