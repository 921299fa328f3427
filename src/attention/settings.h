#pragma once

#include "base/options.h"

namespace atlas::attention {

using Mode = AttentionMode;
using Settings = SparseOptions;

/**
 * In batches up to this many tokens (questions, several slots, speculation) every token selects for itself: one choice for a question's tokens serves none of
 * them (docs/design/attention.md).
 */
inline constexpr int64_t kDecodeTokens = 64;

}  // namespace atlas::attention
