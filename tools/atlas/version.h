#pragma once

#include <string>

namespace atlas::tool {

/** Atlas's version, the commit it was built from where that was known, and the versions of ggml it was tested with. */
std::string version_text();

}  // namespace atlas::tool
