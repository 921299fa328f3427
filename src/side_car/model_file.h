#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace atlas::side_car {

/** GGUF files that this process has mapped or open, except side-cars, each once. */
std::vector<std::string> open_gguf_files();

/**
 * Whether the model with this fingerprint is in use: `given` if it is not empty (the launcher knows it), else one of open_gguf_files(). The status says
 * which files were looked at and what they are.
 */
Status check_model(uint64_t fingerprint, const std::string& given);

}  // namespace atlas::side_car
