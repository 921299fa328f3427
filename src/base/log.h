#pragma once

#include <spdlog/logger.h>

#include <string>
#include <string_view>

#include "base/option_enums.h"

namespace atlas {

/**
 * The library's logger: stderr, prefix "atlas:", level warn until set_log_level(). Nothing else in the library prints. Whatever a message holds, one
 * message is one line of printable text: names and texts come from files and from the environment. Thread-safe; lives until the process ends.
 */
spdlog::logger& log();

void set_log_level(LogLevel level);

/** `text` with control characters (of ASCII and C1, line ends too) and what is not UTF-8 written as \xNN. */
std::string printable(std::string_view text);

}  // namespace atlas
