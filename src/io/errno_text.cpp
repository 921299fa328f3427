#include "io/errno_text.h"

#include <system_error>

namespace atlas::io {

std::string errno_text(int error) {
    return std::generic_category().message(error) + " (errno " + std::to_string(error) + ")";
}

}  // namespace atlas::io
