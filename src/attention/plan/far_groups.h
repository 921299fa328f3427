#pragma once

#include <cstdint>
#include <vector>

#include "attention/plan/visibility.h"

namespace atlas::attention {

/**
 * Pages [page, page + count) of the index, count a power of two and page a multiple of it, inside one panel, that every tile of the graph sees
 * alike: what is grouped over their cells is then seen by a token either whole or not at all.
 */
struct FarGroup {
    int64_t page;
    int64_t stream;  ///< through which they are read
    int32_t count;
};

/** Groups first … end − 1 of a graph lie in chunk `number` of kv::kChunkPages pages; `hash` tells them from other groups. */
struct FarChunk {
    int64_t number;
    size_t first, end;
    uint64_t hash;
};

struct FarGroups {
    std::vector<FarGroup> groups;  ///< ascending
    std::vector<FarChunk> chunks;
};

/**
 * The far pages of all views in groups, as large as can be, at most max_pages (a power of two, at most kv::kChunkPages) each. Fills panels of the views.
 * Depends on these views only. Throws std::bad_alloc.
 */
void group_far_pages(const kernels::AttentionArgs& args, const KvIndex& index, int64_t max_pages,
                     std::vector<TileView>* views, FarGroups* out);

}  // namespace atlas::attention
