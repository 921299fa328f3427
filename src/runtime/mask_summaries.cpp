#include "runtime/mask_summaries.h"

namespace atlas::runtime {

void MaskSummaries::attach(int64_t n_tokens, int64_t n_keys, int n_threads, kernels::Mask* mask) {
    mask->summary_blocks = (n_keys + kernels::kBlockKeys - 1) / kernels::kBlockKeys;
    const std::array<int64_t, 4> shape{n_keys, n_tokens, mask->n_heads, mask->n_streams};
    for (size_t i = 0; i < in_use_; ++i) {
        if (summaries_[i].data == mask->data && summaries_[i].shape == shape) {
            mask->summary = summaries_[i].blocks.data();
            return;
        }
    }
    if (in_use_ == summaries_.size()) summaries_.emplace_back();
    Summary& summary = summaries_[in_use_];
    summary.data = mask->data;
    summary.shape = shape;
    summary.blocks.resize(static_cast<size_t>(mask->n_streams * mask->n_heads * n_tokens * mask->summary_blocks));
    kernels::summarize_mask(*mask, n_tokens, n_keys, summary.blocks.data(), n_threads);
    mask->summary = summary.blocks.data();
    ++in_use_;
}

}  // namespace atlas::runtime
