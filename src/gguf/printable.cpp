#include "gguf/printable.h"

#include <cstdint>

#include "base/log.h"

namespace atlas::gguf {

std::string printable(std::string_view text, size_t most) {
    if (text.size() <= most) return atlas::printable(text);
    // Not in the middle of a character.
    while (most > 0 && (static_cast<uint8_t>(text[most]) & 0xc0) == 0x80) --most;
    return atlas::printable(text.substr(0, most)) + "…";
}

}  // namespace atlas::gguf
