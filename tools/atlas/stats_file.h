#pragma once

#include <string>

namespace atlas::tool {

/**
 * Prints what took part in the contexts behind a file that ATLAS_STATS named, and what did not and why; as JSON the file's own members and, as "attention", the sums of its layers.
 * The exit status: 1, with a line, where it is none.
 */
int print_stats_file(const std::string& path, bool json);

}  // namespace atlas::tool
