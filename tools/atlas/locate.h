#pragma once

#include <string>

namespace atlas::tool {

/**
 * Path of libggml-atlas.so: $ATLAS_LIBRARY, else beside this program, in ../lib/atlas, ../lib/<triplet>/atlas or where a build tree has
 * it. Empty when it is nowhere; `searched` then names the places.
 */
std::string locate_library(std::string* searched);

}  // namespace atlas::tool
