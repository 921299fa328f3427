#pragma once

#include <cstdint>

namespace atlas::io {

/** Allocates bytes from … from + bytes − 1 of a file. 0, or an errno: EFBIG instead of the signal that a limit on file sizes sends. */
int grow_file(int fd, uint64_t from, uint64_t bytes);

}  // namespace atlas::io
