#pragma once

#include <string>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "gguf/fingerprint.h"

namespace atlas::side_car {

/** Over the data of all tensors, in the order in which layers and their parts are met. */
class Checksum {
public:
    Checksum() { XXH3_64bits_reset(&state_); }
    void add(const std::vector<float>& data) { XXH3_64bits_update(&state_, data.data(), data.size() * sizeof(float)); }
    std::string text() const { return gguf::fingerprint_text(XXH3_64bits_digest(&state_)); }

private:
    XXH3_state_t state_;
};

}  // namespace atlas::side_car
