#pragma once

#include <cstdint>

namespace atlas::kv {

/** Rows (cells) per page. Equal to the kernels' block of keys, so that a page of a cache tensor is one block. */
inline constexpr int64_t kPageRows = 64;
/** Pages whose writes are also counted together. */
inline constexpr int64_t kChunkPages = 64;

/** Pages `first` … first + count − 1 of a table; count may be 0. */
struct PageRange {
    int64_t first = 0;
    int64_t count = 0;
};

}  // namespace atlas::kv
