#pragma once

#include <spdlog/logger.h>

namespace atlas {

/**
 * The library's logger: stderr, prefix "atlas:", level from ATLAS_LOG_LEVEL (trace, debug, info, warn, error, off; default warn;
 * ATLAS_DEBUG=1 means debug). Nothing else in the library prints. Thread-safe; lives until the process ends.
 */
spdlog::logger& log();

}  // namespace atlas
