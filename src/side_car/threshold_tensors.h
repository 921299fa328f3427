#pragma once

#include "gguf/reader.h"
#include "gguf/writer.h"
#include "side_car/checksum.h"
#include "side_car/thresholds.h"

namespace atlas::side_car {

/** A tensor per matrix, named after it, and the shares that they are for; docs/side-car.md has the layout. Nothing where there are none. */
void encode_thresholds(const Thresholds& thresholds, Checksum* checksum, gguf::Content* out);
/** Errors, corrupt: other shares than kShares, numbers that cannot be thresholds. None where the file has none. */
Status read_thresholds(const gguf::Metadata& file, Checksum* checksum, Thresholds* out);

}  // namespace atlas::side_car
