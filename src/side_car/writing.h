#pragma once

#include <string>

#include "base/status.h"
#include "gguf/writer.h"
#include "side_car/side_car.h"

namespace atlas::side_car {

/** Fails when a memory does not have the sizes that options and geometry ask for. What comes out is what reading.h reads. */
Status encode_side_car(const SideCar& side_car, gguf::Content* out);

/** Where a side-car goes. */
struct Target {
    std::string path;
    std::string model;     ///< GGUF file of the model that it is for
    bool replace = false;  ///< whether a side-car of that name may be replaced
};

/**
 * Whether write_side_car may write there, to be asked before the work of hours. Never: the model itself, under whatever name or link; anything but a
 * regular file; a file that is not a side-car, `replace` or not. A side-car that is there, only with `replace`. Also looks whether the folder can
 * be written, as far as its permissions tell.
 */
Status check_target(const Target& target);

/** check_target, then all of the file or nothing (gguf::write); the new file is read as a side-car before it gets its name. */
Status write_side_car(const SideCar& side_car, const Target& target);

}  // namespace atlas::side_car
