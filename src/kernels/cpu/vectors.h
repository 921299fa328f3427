#pragma once

#include <cstddef>

// Before loops of constant length over registers: at -O2 gcc keeps such loops, and their arrays in memory (measured: 4x slower).
#if defined(__clang__)
#define ATLAS_UNROLL _Pragma("clang loop unroll(full)")
#else
#define ATLAS_UNROLL _Pragma("GCC unroll 16")
#endif

namespace atlas::kernels::cpu {

/** Dimensions of q rows are padded with zeros to a multiple of this, so that loops need no tail on the query's side. */
inline constexpr size_t kChunk = 32;

}  // namespace atlas::kernels::cpu
