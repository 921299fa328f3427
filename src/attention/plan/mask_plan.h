#pragma once

#include <cstdint>
#include <vector>

#include "attention/plan/far_groups.h"
#include "attention/index/kv_index.h"
#include "attention/settings.h"
#include "attention/plan/visibility.h"
#include "kernels/attention.h"

namespace atlas::attention {

/** Pages whose keys may share a block, at most. */
inline int64_t largest_group(const Settings& settings, const KvIndex& index) {
    return settings.alike ? index.pages_per_super() : 1;
}

/** What the layers of a graph that have the same mask and pages share: which pages each tile of tokens reads, and how far ones are grouped. */
class MaskPlan {
public:
    /** Whether it was made for this mask, of the same graph, and pages. */
    bool is_for(const kernels::AttentionArgs& args, int64_t n_keys, const int64_t* base_pages) const;
    /**
     * Makes it for the mask of `args`. When decoding, most masks look as the one of the token before: what was made of that is then kept, at
     * the cost of a comparison. Returns whether it was kept. Throws std::bad_alloc; it is for no mask then.
     */
    bool make(const kernels::AttentionArgs& args, int64_t n_keys, const KvIndex& index, const Settings& settings,
              int64_t tile, const int64_t* base_pages);

    /** Whether it was last made for layers with this index. */
    bool is_of(const KvIndex& index) const { return index_id_ == index.id(); }

    const std::vector<TileView>& views() const { return views_; }  ///< [stream][tile]
    const FarGroups& groups() const { return groups_; }

private:
    bool looks_the_same(const kernels::AttentionArgs& args, int64_t n_keys, const KvIndex& index,
                        const int64_t* base_pages);
    bool same_order_of_writes(const KvIndex& index);
    void remember(const kernels::AttentionArgs& args, const KvIndex& index);

    uint64_t index_id_ = 0;
    const void* mask_ = nullptr;
    int64_t n_keys_ = 0, n_tokens_ = 0;
    std::vector<int64_t> base_pages_;
    std::vector<TileView> views_;
    FarGroups groups_;

    /** Of the pages of one stream as they were last looked at. */
    struct Writes {
        std::vector<uint64_t> versions;  ///< per chunk of the index, from the one of the first page on
        std::vector<uint64_t> epochs;    ///< per page
    };
    bool remembered_ = false;
    std::vector<kernels::BlockVisibility> summary_;
    std::vector<Writes> writes_;  // per stream
};

}  // namespace atlas::attention
