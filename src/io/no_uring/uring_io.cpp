#include "io/block_io.h"

namespace atlas::io {

std::unique_ptr<BlockIo> make_uring_io(int /*fd*/) { return nullptr; }

}  // namespace atlas::io
