#pragma once

#include "base/options.h"

namespace atlas::attention {

using Mode = AttentionMode;
using Settings = SparseOptions;

}  // namespace atlas::attention
