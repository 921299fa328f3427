#pragma once

#include <ggml.h>

#include <map>
#include <memory>
#include <vector>

#include "attention/engine.h"
#include "base/options.h"
#include "base/status.h"
#include "kernels/attention.h"

namespace atlas::host {

/** Whether FLASH_ATTN_EXT with these types and shapes can be run. */
bool supports_flash_attention(const ggml_tensor* op);

/**
 * Translates FLASH_ATTN_EXT nodes into kernel arguments. Keeps what the layers of one graph share (mask summaries, run lists) and the
 * buffers of earlier calls. One per backend instance; not thread-safe.
 */
class FlashAttention {
public:
    FlashAttention() = default;
    /** Writes the statistics that ATLAS_STATS asks for. */
    ~FlashAttention();
    FlashAttention(const FlashAttention&) = delete;
    FlashAttention& operator=(const FlashAttention&) = delete;

    /** To be called before the first node of a graph: masks may hold new values. */
    void begin_graph() {
        summaries_in_use_ = 0;
        kv::PagedTensor::advance_epoch();
    }

    Status run(const ggml_tensor* op, int n_threads);

private:
    struct Summary {
        const void* data;
        int64_t shape[4];
        std::vector<kernels::BlockVisibility> blocks;
    };

    void set_mask(const ggml_tensor* mask, int64_t n_tokens, int64_t n_keys, int n_threads, kernels::Mask* out);
    void build_runs(const ggml_tensor* k, const ggml_tensor* v);
    attention::KvIndex* index_for(const ggml_tensor* k, const ggml_tensor* v, const kernels::AttentionArgs& args);

    std::vector<Summary> summaries_;  // the first summaries_in_use_ belong to this graph
    size_t summaries_in_use_ = 0;
    std::vector<kernels::Run> runs_;
    std::vector<kernels::HeadRuns> heads_;
    attention::Engine engine_{options().sparse, options().memory};
    std::map<std::pair<uint64_t, uint64_t>, std::unique_ptr<attention::KvIndex>>
        indexes_;  // by the ids of the K and V pages
    std::vector<int64_t> base_pages_;
};

}  // namespace atlas::host
