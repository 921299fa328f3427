#pragma once

#include <string_view>

namespace atlas::host {

/** The functions of include/atlas/calibration.h by name; nullptr for others. */
void* calibration_function(std::string_view name);

}  // namespace atlas::host
