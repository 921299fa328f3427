#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace atlas::gguf {

/**
 * Tells models apart: XXH3-64 over metadata and tensor infos, the file's size, and 64 pieces of 4 KiB at even distances in the tensor data, so that a
 * fine-tuned model with unchanged metadata is another one. Files that are not GGUF are refused.
 */
Status fingerprint_of(const std::string& path, uint64_t* out);

/** 16 hexadecimal digits. */
std::string fingerprint_text(uint64_t fingerprint);

}  // namespace atlas::gguf
