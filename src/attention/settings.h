#pragma once

#include "base/options.h"

namespace atlas::attention {

using Mode = AttentionMode;
using Settings = SparseOptions;

/** Batches up to this many tokens are decoding (several slots, speculation): every token selects for itself. */
inline constexpr int64_t kDecodeTokens = 8;

}  // namespace atlas::attention
