#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "gguf/types.h"

namespace atlas::gguf {

struct TensorInfo {
    uint32_t type = 0;           ///< ggml's number
    std::vector<int64_t> shape;  ///< elements, the contiguous dimension first; one to four sizes of 0 or more
    uint64_t elements = 0;       ///< their product
    uint64_t offset = 0;         ///< in the file; the data's end was not looked at
};

/** Metadata of a file and where its tensors lie. */
struct Metadata {
    std::string path;
    std::string shown;        ///< the path as messages have it (printable.h)
    uint64_t bytes = 0;       ///< of the whole file
    uint64_t data_begin = 0;  ///< end of metadata and tensor infos, aligned
    std::map<std::string, Value> keys;
    std::map<std::string, TensorInfo> tensors;
};

/**
 * Reads the metadata of a file (versions 2 and 3, little endian). ggml has a reader, but it ends the process at some malformed files (an empty
 * key, for one), and the files that are looked at here are whatever the process has mapped or the user has named: every length is held against
 * what is left of the file and against the limits of types.h before anything is reserved, and anything wrong is a status (corrupt, or io) that
 * names file, place and value in one line. `out` is untouched then. Holds kMostKept bytes at most, besides std::map's own.
 */
Status read(const std::string& path, Metadata* out);

/**
 * All elements of an F32 tensor of `file`; a status when it has another type, more elements than `most`, does not lie in the file, or an
 * element is not finite. What is asked for is known by who asks: `most` is held against the file before anything is reserved.
 */
Status read_f32(const Metadata& file, const std::string& name, uint64_t most, std::vector<float>* out);

}  // namespace atlas::gguf
