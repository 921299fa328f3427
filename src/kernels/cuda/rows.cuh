#pragma once

#include "kernels/cuda/arguments.h"
#include "kernels/cuda/shapes.h"
#include "kernels/cuda/simt.h"

// Rows of K and V, sixteen elements per lane. kLanes lanes share a row, so that a warp reads 32 / kLanes rows at once, each request of
// it in whole sectors: of floats a lane has elements 8·lane … and 8·(kLanes + lane) …, of blocks the half block 16·lane ….

namespace atlas::kernels::cuda {

SIMT_DEVICE bool in_blocks(RowType type) { return type == RowType::kQ8_0 || type == RowType::kQ4_0; }

/** Element of a row that is number i (0 … 15) of this lane's. */
template <int kLanes>
SIMT_DEVICE int element_of(bool blocks, int part, int i) {
    return blocks ? part * kLaneElements + i : (i / 8 * kLanes + part) * 8 + i % 8;
}

/** A lane's part of a row as it is stored: requested now, widened later, so that K and V are under way together. */
struct StoredPart {
    uint4 bits[2];
    uint16_t scale;
};

/** Sixteen bytes at an address that is a multiple of 2 only: five requests, whichever alignment it has. */
SIMT_DEVICE uint4 read_16_at_2(const unsigned char* from) {
    const bool odd = (reinterpret_cast<uintptr_t>(from) & 2) != 0;
    const uint32_t first = simt::read(reinterpret_cast<const uint16_t*>(from));
    const auto* words = reinterpret_cast<const uint32_t*>(from + (odd ? 2 : 4));
    const uint32_t w0 = simt::read(words);
    const uint32_t w1 = simt::read(words + 1);
    const uint32_t w2 = simt::read(words + 2);
    const uint32_t other = simt::read(reinterpret_cast<const uint16_t*>(from + (odd ? 14 : 2)));
    if (!odd) return {first | other << 16, w0, w1, w2};
    return {first | w0 << 16, w0 >> 16 | w1 << 16, w1 >> 16 | w2 << 16, w2 >> 16 | other << 16};
}

/** Requests what lane `part` of kLanes has of a row of d elements; elements beyond d are zeros. */
template <int kLanes>
SIMT_DEVICE StoredPart read_part(RowType type, const unsigned char* row, int part, int d) {
    StoredPart stored{};
    if (!in_blocks(type)) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int at = (i * kLanes + part) * 8;
            if (at < d) stored.bits[i] = simt::read(reinterpret_cast<const uint4*>(row + 2 * at));
        }
    } else if (part * kLaneElements < d) {
        const int block = part / 2;
        if (type == RowType::kQ8_0) {
            stored.scale = simt::read(reinterpret_cast<const uint16_t*>(row + 34 * block));
            stored.bits[0] = read_16_at_2(row + 34 * block + 2 + part % 2 * 16);
        } else {
            stored.scale = simt::read(reinterpret_cast<const uint16_t*>(row + 18 * block));
            stored.bits[0] = read_16_at_2(row + 18 * block + 2);
        }
    }
    return stored;
}

/** The sixteen elements of a part. */
SIMT_DEVICE void widen_part(RowType type, const StoredPart& stored, int part, float (&x)[kLaneElements]) {
    if (!in_blocks(type)) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const uint32_t words[4] = {stored.bits[i].x, stored.bits[i].y, stored.bits[i].z, stored.bits[i].w};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const float2 two = type == RowType::kF16 ? simt::unpack_halves(words[j])
                                                         : float2{simt::bits_to_float(words[j] << 16),
                                                                  simt::bits_to_float(words[j] & 0xFFFF0000u)};
                x[i * 8 + 2 * j] = two.x;
                x[i * 8 + 2 * j + 1] = two.y;
            }
        }
        return;
    }
    const float scale = simt::half_to_float(stored.scale);
    const uint32_t words[4] = {stored.bits[0].x, stored.bits[0].y, stored.bits[0].z, stored.bits[0].w};
#pragma unroll
    for (int i = 0; i < kLaneElements; ++i) {
        const uint32_t byte = words[i / 4] >> (i % 4 * 8) & 0xFFu;
        const int quant = type == RowType::kQ8_0 ? static_cast<int8_t>(byte)
                                                 : static_cast<int>(part % 2 ? byte >> 4 : byte & 15u) - 8;
        x[i] = scale * static_cast<float>(quant);
    }
}

}  // namespace atlas::kernels::cuda
