#pragma once

#include "atlas/llama-atlas.h"
#include "base/status.h"

namespace atlas::c_api {

/** Keeps "<function>: <message>" as this thread's last error. Longer texts are cut. Never throws. */
llama_atlas_status fail(llama_atlas_status code, const char* function, const char* message) noexcept;

/** The same for a failed `status`. */
llama_atlas_status fail(const Status& status, const char* function) noexcept;

/** This thread's last error; "" before the first. */
const char* last_error() noexcept;

}  // namespace atlas::c_api
