#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "io/block_io.h"

namespace atlas::io {

/** How often what goes wrong: shares of transfers, 0 … 1. */
struct Faults {
    double read_eio = 0, write_eio = 0, write_enospc = 0, grow_enospc = 0;
    double short_read = 0, short_write = 0;  ///< half of it is transferred, and so it is told
    double torn_write = 0;                   ///< half of it is written, and all of it told
    double flip_read = 0, flip_write = 0;    ///< one bit is another one
    double hang = 0;                         ///< it takes hang_ms
    double hang_ms = 1000;
    double after = 0;  ///< so many transfers go well first
    double seed = 1;
};

/** "read_eio=0.01,torn_write=0.001,seed=3" as ATLAS_TEST_FAULTS has it. Errors: a name that is none, a share outside of 0 … 1. */
Status parse_faults(const std::string& text, Faults* out);

/** `io` with faults, made by a generator with a seed: the same for the same transfers. Throws std::bad_alloc. */
std::unique_ptr<BlockIo> make_faulty_io(std::unique_ptr<BlockIo> io, const Faults& faults);

}  // namespace atlas::io
