#pragma once

#include "base/options.h"

namespace atlas::attention {

using Mode = AttentionMode;
using Settings = SparseOptions;

/**
 * In batches up to this many tokens (questions, several slots, speculation) every token selects for itself: one selection for a question's tokens serves none of
 * them (docs/design/attention.md).
 */
inline constexpr int64_t kDecodeTokens = 64;

/**
 * Visible keys up to which the tokens of a batch are exact: where choosing is sooner done than reading (Qwen2.5's and SmolLM2's shapes, bench_sparse). Exact
 * attention reads a key once for all tokens of a batch; tokens that choose for themselves read theirs alone, and tiles of a prompt score all keys first.
 */
inline int64_t threshold_of(const Settings& settings, int64_t n_tokens) {
    constexpr int64_t kFewTokens = 8;
    const int64_t one = settings.threshold;
    return n_tokens == 1 ? one : n_tokens <= kFewTokens ? one + one / 2 : 2 * one;
}

}  // namespace atlas::attention
