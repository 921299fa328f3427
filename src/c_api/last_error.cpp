#include "c_api/last_error.h"

#include <cstdio>

namespace atlas::c_api {
namespace {

// Not a string: out of memory has to be reported too.
thread_local char t_text[512] = "";

llama_atlas_status code_of(StatusCode code) {
    switch (code) {
        case StatusCode::kOk:
            return LLAMA_ATLAS_OK;
        case StatusCode::kInvalidArgument:
            return LLAMA_ATLAS_INVALID_ARGUMENT;
        case StatusCode::kUnsupported:
            return LLAMA_ATLAS_UNSUPPORTED;
        case StatusCode::kOutOfMemory:
            return LLAMA_ATLAS_OUT_OF_MEMORY;
        case StatusCode::kIo:
        case StatusCode::kCorrupt:
        case StatusCode::kInternal:
            break;
    }
    return LLAMA_ATLAS_INTERNAL;
}

}  // namespace

llama_atlas_status fail(llama_atlas_status code, const char* function, const char* message) noexcept {
    std::snprintf(t_text, sizeof t_text, "%s: %s", function, message);
    return code;
}

llama_atlas_status fail(const Status& status, const char* function) noexcept {
    return fail(code_of(status.code()), function, status.message().c_str());
}

const char* last_error() noexcept { return t_text; }

}  // namespace atlas::c_api
