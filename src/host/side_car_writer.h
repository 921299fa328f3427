#pragma once

#include <string>

#include "base/status.h"
#include "side_car/side_car.h"

namespace atlas::host {

/** Writes a GGUF file through ggml. An existing file is replaced only when the new one is complete. */
Status write_side_car(const runtime::SideCarContent& content, const std::string& path);

}  // namespace atlas::host
