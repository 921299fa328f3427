#pragma once

#include <string>

namespace atlas::tool {

/** A script that completes atlas's words and switches in a shell: bash, zsh or fish; "" for others. */
std::string completion_for(const std::string& shell);

}  // namespace atlas::tool
