#pragma once

#include <ggml.h>

#include <cstdint>
#include <array>
#include <map>
#include <utility>
#include <vector>

#include "base/status.h"
#include "kernels/attention.h"
#include "runtime/session.h"

namespace atlas::host {

/** Whether FLASH_ATTN_EXT with these types, shapes and parameters can be run: unsupported and why, if not. */
Status check_flash_attention(const ggml_tensor* op);

/** Translates FLASH_ATTN_EXT nodes for a session. One per backend instance, its buffers only grow; not thread-safe. */
class FlashAttention {
public:
    /** `session` outlives it. */
    explicit FlashAttention(runtime::Session& session) : session_(session) {}

    Status run(const ggml_tensor* op, int n_threads);

private:
    /** What run lists depend on. */
    struct RunsKey {
        uint64_t k_layout, v_layout;
        size_t k_offset, v_offset;
        std::array<int64_t, 5> ne;  // of K, and of V its first
        std::array<size_t, 6> nb;   // of K and V, from rows up
        bool operator==(const RunsKey&) const = default;
    };
    struct RunLists {
        RunsKey key{};
        std::vector<kernels::Run> runs;
        std::vector<kernels::HeadRuns> heads;
    };

    /** Lists of both tensors; those of pages are kept until a page moves, since making them takes time in proportion to the context. */
    const RunLists& runs_of(const ggml_tensor* k, const ggml_tensor* v);
    static void build_runs(const ggml_tensor* k, const ggml_tensor* v, RunLists* out);
    /** false when K and V do not both lie in pages from the same page on. */
    bool find_cache(const ggml_tensor* k, const ggml_tensor* v, runtime::CacheView* out);

    runtime::Session& session_;
    std::map<std::pair<uint64_t, uint64_t>, RunLists> kept_;  // by the ids of the K and V pages
    RunLists other_;
    std::vector<int64_t> base_pages_;
};

}  // namespace atlas::host
