#pragma once

#include <ggml.h>

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "kernels/attention.h"
#include "runtime/session.h"

namespace atlas::host {

/** Whether FLASH_ATTN_EXT with these types and shapes can be run. */
bool supports_flash_attention(const ggml_tensor* op);

/** Translates FLASH_ATTN_EXT nodes for a session. One per backend instance, its buffers only grow; not thread-safe. */
class FlashAttention {
public:
    /** `session` outlives it. */
    explicit FlashAttention(runtime::Session& session) : session_(session) {}

    Status run(const ggml_tensor* op, int n_threads);

private:
    void build_runs(const ggml_tensor* k, const ggml_tensor* v);
    /** false when K and V do not both lie in pages from the same page on. */
    bool find_cache(const ggml_tensor* k, const ggml_tensor* v, runtime::CacheView* out);

    runtime::Session& session_;
    std::vector<kernels::Run> runs_;
    std::vector<kernels::HeadRuns> heads_;
    std::vector<int64_t> base_pages_;
};

}  // namespace atlas::host
