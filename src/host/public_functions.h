#pragma once

#include <string_view>

namespace atlas::host {

/** A function of include/atlas/ by its name, for programs that do not link this library; nullptr for others. */
void* public_function(std::string_view name);

}  // namespace atlas::host
