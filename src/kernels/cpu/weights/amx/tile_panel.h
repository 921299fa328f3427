#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/weights/panel.h"

// 32 rows by 256 elements of weights in bytes with signs, as tiles are loaded: rows of 64 bytes in the order of k, so that nothing is turned.
// Rows that are not there are zeros with a scale of 0.

namespace atlas::kernels::cpu {

using TileCodes = int8_t[2][4][kTile][64];  ///< [half of the rows][64 elements of k][row]

/** Blocks of 32: weight = scale · code + minimum. What lies beyond the elements is undefined, but for minima, which are 0. */
struct alignas(64) ScaledTiles {
    TileCodes codes;
    float scales[2][kTile][8];
    uint32_t minima[2][2][kTile]
                   [8];  ///< the larger and the smaller part of the sum of two bf16, each of them twice in a word
};
void unpack_32(const RowBlocks& rows, ScaledTiles* panel);

/** A block of 256: weight = scale · (64 · high + low) − minimum · minima; scale · low alone for q2_K and q3_K. */
struct alignas(64) WholeTiles {
    TileCodes low;
    TileCodes high;
    uint32_t minima[2][kTile][16];  ///< per 16 elements, as bf16, twice in a word
    float scale[2][kTile];
    float minimum[2][kTile];
};
void unpack_256(const RowBlocks& rows, WholeTiles* panel);

}  // namespace atlas::kernels::cpu
