#pragma once

#include <string>

namespace atlas::io {

/** "Input/output error (errno 5)". Throws std::bad_alloc. */
std::string errno_text(int error);

}  // namespace atlas::io
