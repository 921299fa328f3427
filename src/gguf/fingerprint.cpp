#include "gguf/fingerprint.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "gguf/file_input.h"
#include "gguf/reader.h"

namespace atlas::gguf {

Status fingerprint_of(const std::string& path, uint64_t* out) {
    constexpr uint64_t kPieces = 64;
    constexpr uint64_t kPieceBytes = 4096;
    Metadata metadata;
    if (Status status = read(path, &metadata); !status.is_ok()) return status;
    FileInput file;
    if (Status status = file.open(path); !status.is_ok()) return status;
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    std::vector<char> buffer(1 << 20);
    const auto add = [&](uint64_t from, uint64_t length) {
        for (uint64_t done = 0; done < length;) {
            const uint64_t n = std::min<uint64_t>(buffer.size(), length - done);
            if (Status status = file.read(from + done, buffer.data(), n); !status.is_ok()) return status;
            XXH3_64bits_update(&state, buffer.data(), n);
            done += n;
        }
        return Status::ok();
    };
    const uint64_t bytes = metadata.bytes;
    Status status = add(0, std::min(metadata.data_begin, bytes));
    const uint64_t data = bytes > metadata.data_begin ? bytes - metadata.data_begin : 0;
    for (uint64_t i = 0; i < kPieces && status.is_ok(); ++i) {
        const uint64_t at = data > kPieceBytes ? (data - kPieceBytes) * i / (kPieces - 1) : 0;
        status = add(metadata.data_begin + at, std::min(kPieceBytes, data));
    }
    if (!status.is_ok()) return status;
    XXH3_64bits_update(&state, &bytes, sizeof bytes);
    *out = XXH3_64bits_digest(&state);
    return Status::ok();
}

std::string fingerprint_text(uint64_t fingerprint) {
    char text[17];
    std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(fingerprint));
    return text;
}

}  // namespace atlas::gguf
