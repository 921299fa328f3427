#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"
#include "side_car/side_car.h"

namespace atlas::side_car {

constexpr uint64_t kNoLimit = UINT64_MAX;

/**
 * Reads and checks a whole file: version, kind, geometry, sizes, ranges, finite numbers, checksum. Does not look at the model. `most_bytes`: what
 * the memories may take, ATLAS_MEMORY_BUDGET where they are to be used; a file that asks for more is refused before anything of that size is
 * reserved. The status names file, place and value in one line; `out` is untouched then.
 */
Status read_side_car(const std::string& path, uint64_t most_bytes, SideCar* out);

}  // namespace atlas::side_car
