#pragma once

// Tensor cores: products of matrices whose elements lie in the registers of a warp, fragments as in the PTX manual (m16n8k16).

#include "emulator/vocabulary.h"

namespace atlas::simt {

/** What a lane brings: its elements of a (eight) and of b (four), widened once. */
struct MmaOperands {
    float a[8], b[4];
};
static_assert(sizeof(MmaOperands) <= kSlotBytes);

/** d [16][8] += a [16][16] · b [16][8]. Real tensor cores may round sums otherwise. */
SIMT_QUIET inline void multiply_tiles(float (&d)[4], const MmaOperands& mine, const char* what, Where where) {
    const Slot* slots = warp_exchange(~0u, &mine, sizeof mine, what, where);
    const auto operands = [&](unsigned lane) { return reinterpret_cast<const MmaOperands*>(slots[lane]); };
    const unsigned group = self->lane / 4;
    const unsigned pair = self->lane % 4;
    for (unsigned half = 0; half < 2; ++half) {  // rows `group` and `group` + 8
        for (unsigned c = 0; c < 2; ++c) {
            float sum = d[half * 2 + c];
            for (unsigned j = 0; j < 4; ++j) {  // columns 2j, 2j + 1, 2j + 8, 2j + 9 of a
                const MmaOperands* a = operands(group * 4 + j);
                const MmaOperands* b = operands((pair * 2 + c) * 4 + j);
                sum += a->a[half * 2] * b->b[0] + a->a[half * 2 + 1] * b->b[1];
                sum += a->a[4 + half * 2] * b->b[2] + a->a[4 + half * 2 + 1] * b->b[3];
            }
            d[half * 2 + c] = sum;
        }
    }
}

SIMT_QUIET inline void mma_halves(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                  Where where = Where::current()) {
    MmaOperands mine;
    for (int i = 0; i < 4; ++i) {
        const float2 two = unpack_halves(a[i]);
        mine.a[2 * i] = two.x;
        mine.a[2 * i + 1] = two.y;
    }
    for (int i = 0; i < 2; ++i) {
        const float2 two = unpack_halves(b[i]);
        mine.b[2 * i] = two.x;
        mine.b[2 * i + 1] = two.y;
    }
    multiply_tiles(d, mine, "mma.f16", where);
}

/** Two 8×8 matrices of 16-bit numbers out of shared memory, transposed; lanes 0 … 15 each point at a row of 16 bytes. */
inline void load_transposed(uint32_t (&tile)[2], const void* row, Where where = Where::current()) {
    struct Row {
        uint16_t at[8];
    } mine{};
    if (self->lane < 16) {
        if (reinterpret_cast<uintptr_t>(row) % 16 != 0) fail("ldmatrix row not aligned to 16 bytes", where);
        mine = *static_cast<const Row*>(row);  // an access of the kernel, for sanitizers to see
    }
    const Slot* slots = warp_exchange(~0u, &mine, sizeof mine, "ldmatrix", where);
    const unsigned column = self->lane / 4;
    const unsigned first = self->lane % 4 * 2;
    for (unsigned m = 0; m < 2; ++m) {
        uint16_t low;
        uint16_t high;
        __builtin_memcpy(&low, slots[m * 8 + first] + 2 * column, 2);
        __builtin_memcpy(&high, slots[m * 8 + first + 1] + 2 * column, 2);
        tile[m] = low | static_cast<uint32_t>(high) << 16;
    }
}

}  // namespace atlas::simt
