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
 * Visible keys up to which the tokens of a batch are exact. Where more than a few tokens choose each for itself, exact attention reads a key once for
 * all of them and they cannot: it takes twice the keys until choosing is sooner done (SmolLM2's and Qwen2.5's shapes, batches of 16 to 64).
 */
inline int64_t threshold_of(const Settings& settings, int64_t n_tokens) {
    constexpr int64_t kFewTokens = 8;
    return int64_t{settings.threshold} * (n_tokens > kFewTokens && n_tokens <= kDecodeTokens ? 2 : 1);
}

}  // namespace atlas::attention
