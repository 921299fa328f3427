#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

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

/** Whether memory holds nothing but zeros. Data that is not zero says so early. */
inline bool is_zero(const std::byte* data, size_t bytes) {
    return bytes == 0 || (data[0] == std::byte{0} && std::memcmp(data, data + 1, bytes - 1) == 0);
}

}  // namespace atlas::kv
