#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/arguments.h"

// Sizes of blocks, warps and shared memory: what a kernel and whoever launches it must agree on.

namespace atlas::kernels::cuda {

// --- few rows (stream.cuh, decode.cuh) ---

inline constexpr int kDecodeWarps = 4;
/** Elements of a row that a lane holds. */
inline constexpr int kLaneElements = 16;

/** Softmax over some keys: Σ 2^(logit − top)·v beside top and Σ 2^(logit − top). Without a visible key top is −∞ and total 0. */
struct Softmax {
    float top, total;
};

/** Shared memory of decode for blocks of kRows rows, each read by kLanes lanes. */
template <int kRows, int kLanes>
constexpr size_t decode_shared() {
    const size_t sums = sizeof(float) * kDecodeWarps * kRows * kLanes * kLaneElements;
    return sums + (sizeof(Softmax) * kDecodeWarps * kRows + 15) / 16 * 16 + 16;
}

// --- many rows (tiles.cuh) ---

inline constexpr int kTileStages = 2;
/** f16 of padding behind each row of a tile: rows 4 banks apart, so that neither fragments nor ldmatrix meet in a bank. */
inline constexpr int kTilePad = 8;
inline constexpr int kMaskPitch = kPageKeys + 8;

/** Keys of a tile: as many as leave a block within the 64 KiB of Turing's multiprocessors. */
template <int kHead>
constexpr int tile_keys() {
    return kHead > 128 ? 16 : 32;
}

/** Whether queries lie in shared memory: beside the sums of large heads registers have no room for them. */
template <int kHead>
constexpr bool queries_shared() {
    return kHead > 128;
}

template <int kHead, int kWarps>
constexpr size_t tiles_shared() {
    const size_t tiles = sizeof(uint16_t) * kTileStages * 2 * tile_keys<kHead>() * (kHead + kTilePad);
    const size_t masks = sizeof(uint16_t) * 2 * kWarps * 16 * kMaskPitch;
    const size_t queries = queries_shared<kHead>() ? sizeof(uint16_t) * kWarps * 16 * (kHead + kTilePad) : 0;
    return tiles + masks + queries + sizeof(unsigned) * kWarps * 16 + 16;
}

// --- rows into a cache (write_rows.cuh) ---

inline constexpr int kWriteWarps = 4;

// --- codes of keys (codes.cuh, encode.cuh, select.cuh, rest.cuh) ---

inline constexpr int kSparseWarps = 4;
/** Rows (tokens of a tile times heads of a group) of a list whose keys are selected: their queries lie in shared memory. */
inline constexpr int kMostSparseRows = 32;
/** Rows that are scored at once, from one pass over a page's codes. */
inline constexpr int kScoredRows = 4;

/** Queries of a list in shared memory: codes, f32, four numbers for each; then what a block counts with. */
constexpr size_t sparse_shared(int rows, int d) {
    return static_cast<size_t>(rows) * static_cast<size_t>(d) * 5 + static_cast<size_t>(rows) * 16 + 64 +
           sizeof(unsigned) * (256 + 16);
}
/** Likewise for attend_rest, with the sums of its warps. */
constexpr size_t rest_shared(int rows, int d, int d_v) {
    return sparse_shared(rows, d) + sizeof(float) * kSparseWarps * kScoredRows * (static_cast<size_t>(d_v) + 4) + 64;
}
/** A warp's row of d elements, and its sums of keys and values. */
constexpr size_t encode_shared() { return sizeof(float) * (kSparseWarps * 3 * kMaxHead + 2 * kMaxHead + 16); }

// --- products with quantised weights (products.cuh) ---

inline constexpr int kProductWarps = 4;
/** Elements of activations that a block has in shared memory at a time: a multiple of all types' blocks. */
inline constexpr int kProductTile = 4096;

/** Codes, and sixteen bytes for each 32 of them. */
constexpr size_t product_shared(int columns) {
    return static_cast<size_t>(columns) * (kProductTile + kProductTile / 32 * 16);
}

}  // namespace atlas::kernels::cuda
