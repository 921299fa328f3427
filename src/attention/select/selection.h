#pragma once

#include <vector>

#include "attention/plan/visibility.h"

namespace atlas::attention {

/** What was selected for one (tile, KV head). */
struct Selection {
    std::vector<PageCells> selected;  ///< keys to be read besides the exact pages, ascending
    double far_keys = 0;              ///< keys left to the estimate
};

}  // namespace atlas::attention
