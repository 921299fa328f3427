#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "base/status.h"

namespace atlas::runtime {

/** Value of a metadata key. Arrays other than of whole numbers are passed over; they read as monostate. */
using GgufValue = std::variant<std::monostate, bool, int64_t, double, std::string, std::vector<int64_t>>;

struct GgufTensor {
    uint32_t type = 0;           ///< ggml's number; 0 is F32
    std::vector<int64_t> shape;  ///< elements, the contiguous dimension first
    uint64_t offset = 0;         ///< in the file
};

/** Metadata of a GGUF file and where its tensors lie. */
struct GgufFile {
    std::string path;
    uint64_t bytes = 0;       ///< of the whole file
    uint64_t data_begin = 0;  ///< end of metadata and tensor infos, aligned
    std::map<std::string, GgufValue> keys;
    std::map<std::string, GgufTensor> tensors;
};

/**
 * Reads the metadata of a file (versions 2 and 3, little endian). ggml has a reader, but it ends the process at some malformed files (an empty key,
 * for one), and the files that are looked at here are whatever the process has mapped or the user has named: every length is held against what is left
 * of the file, and anything wrong is a status that names file and value.
 */
Status read_gguf(const std::string& path, GgufFile* out);

/** All elements of an F32 tensor of `file`; a status when it has another type, does not lie in the file, or an element is not finite. */
Status read_tensor(const GgufFile& file, const std::string& name, std::vector<float>* out);

/**
 * Tells models apart: XXH3-64 over metadata and tensor infos, the file's size, and 64 pieces of 4 KiB at even distances in the tensor data, so that a
 * fine-tuned model with unchanged metadata is another one. Files that are not GGUF are refused.
 */
Status fingerprint_of(const std::string& path, uint64_t* out);

}  // namespace atlas::runtime
