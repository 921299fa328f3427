#include "kv/block_io.h"

namespace atlas::kv {

std::unique_ptr<BlockIo> make_uring_io(int /*fd*/) { return nullptr; }

}  // namespace atlas::kv
