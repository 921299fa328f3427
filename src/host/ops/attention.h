#pragma once

#include <ggml.h>

#include <cstdint>

#include "base/status.h"
#include "runtime/session.h"

namespace atlas::host {

/** Whether FLASH_ATTN_EXT with these types, shapes and parameters can be run: unsupported and why, if not. */
Status check_flash_attention(const ggml_tensor* op);

/** Translates FLASH_ATTN_EXT nodes for a session. One per backend instance; not thread-safe. */
class FlashAttention {
public:
    /** `session` outlives it. */
    explicit FlashAttention(runtime::Session& session) : session_(session) {}

    Status run(const ggml_tensor* op, int n_threads);

private:
    runtime::Session& session_;
};

}  // namespace atlas::host
