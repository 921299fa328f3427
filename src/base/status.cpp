#include "base/status.h"

namespace atlas {

const char* status_code_name(StatusCode code) {
    switch (code) {
        case StatusCode::kOk:
            return "ok";
        case StatusCode::kInvalidArgument:
            return "invalid argument";
        case StatusCode::kUnsupported:
            return "unsupported";
        case StatusCode::kOutOfMemory:
            return "out of memory";
        case StatusCode::kIo:
            return "i/o error";
        case StatusCode::kCorrupt:
            return "corrupt data";
        case StatusCode::kInternal:
            return "internal error";
    }
    return "unknown";
}

std::string Status::to_string() const {
    if (is_ok()) return status_code_name(code_);
    return std::string(status_code_name(code_)) + ": " + message_;
}

}  // namespace atlas
