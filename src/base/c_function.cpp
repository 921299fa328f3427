#include "base/c_function.h"

#include <dlfcn.h>

#include <cstdio>

namespace atlas::c_function {
namespace {

// Not a string: out of memory has to be reported too.
thread_local char t_text[512] = "";

atlas_status code_of(StatusCode code) {
    switch (code) {
        case StatusCode::kOk:
            return ATLAS_OK;
        case StatusCode::kInvalidArgument:
            return ATLAS_INVALID_ARGUMENT;
        case StatusCode::kUnsupported:
            return ATLAS_UNSUPPORTED;
        case StatusCode::kOutOfMemory:
            return ATLAS_OUT_OF_MEMORY;
        case StatusCode::kIo:
            return ATLAS_IO;
        case StatusCode::kCorrupt:
            return ATLAS_CORRUPT;
        case StatusCode::kInternal:
            break;
    }
    return ATLAS_INTERNAL;
}

}  // namespace

atlas_status fail(atlas_status code, const char* function, const char* message) noexcept {
    std::snprintf(t_text, sizeof t_text, "%s: %s", function, message);
    return code;
}

atlas_status result_of(const Status& status, const char* function) noexcept {
    return status.is_ok() ? ATLAS_OK : fail(code_of(status.code()), function, status.message().c_str());
}

}  // namespace atlas::c_function

const char* atlas_last_error(void) { return atlas::c_function::t_text; }

const char* atlas_status_name(atlas_status status) {
    switch (status) {
        case ATLAS_OK:
            return "ok";
        case ATLAS_INVALID_ARGUMENT:
            return "invalid argument";
        case ATLAS_NOT_ACTIVE:
            return "not active";
        case ATLAS_NO_LLAMA:
            return "no libllama";
        case ATLAS_UNSUPPORTED:
            return "unsupported";
        case ATLAS_OUT_OF_MEMORY:
            return "out of memory";
        case ATLAS_INTERNAL:
            return "internal error";
        case ATLAS_IO:
            return "input or output failed";
        case ATLAS_CORRUPT:
            return "corrupt";
    }
    return "unknown status";
}

const char* atlas_library_path(void) {
    // The loader's own string, which lives as long as the library.
    Dl_info info{};
    return dladdr(reinterpret_cast<void*>(&atlas_library_path), &info) && info.dli_fname ? info.dli_fname : "";
}
