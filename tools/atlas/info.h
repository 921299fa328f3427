#pragma once

#include <string>

namespace atlas::tool {

/** Loads the plug-in in a child process as the host would, and prints what came of it. Returns the exit status. */
int print_info(const std::string& library, bool json);

}  // namespace atlas::tool
