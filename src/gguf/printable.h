#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace atlas::gguf {

/**
 * A text out of a file, made fit for a message of one line (base/log.h, printable), and cut after `most` of its bytes, with an ellipsis: a file must not
 * be able to end a line, colour a terminal, or fill a log. Messages go to callers of the C API too, so that the log's own care is not enough.
 */
std::string printable(std::string_view text, size_t most = 64);

}  // namespace atlas::gguf
