#pragma once

#include <cstdint>
#include <vector>

#include "attention/index/key_index.h"
#include "attention/settings.h"
#include "attention/plan/visibility.h"
#include "kernels/attention.h"

namespace atlas::attention {

/** What the layers of a graph that have the same mask and pages share: what each tile of tokens does with each page. */
class MaskPlan {
public:
    /** Whether it was made for this mask, of the same graph, and pages. */
    bool is_for(const AttentionCall& call) const;
    /**
     * Makes it for the mask of `call`. When decoding, most masks look as the one of the token before: what was made of that is then kept, at
     * the cost of a comparison. Returns whether it was kept. Throws std::bad_alloc; it is for no mask then.
     */
    bool make(const AttentionCall& call, const KeyIndex& index, const Settings& settings, int64_t tile);

    /** Whether it was last made for layers with this index. */
    bool is_of(const KeyIndex& index) const { return index_ == &index && index_id_ == index.id(); }

    const std::vector<TileView>& views() const { return views_; }  ///< [stream][tile]

private:
    bool has_pages_of(const AttentionCall& call) const;
    bool looks_the_same(const AttentionCall& call, const KeyIndex& index);
    bool same_parts(const AttentionCall& call) const;
    bool same_order_of_writes(const KeyIndex& index);
    void remember(const AttentionCall& call, const KeyIndex& index);

    const KeyIndex* index_ = nullptr;  // compared, never followed
    uint64_t index_id_ = 0;
    const void* mask_ = nullptr;
    int64_t n_keys_ = 0, n_tokens_ = 0;
    std::vector<int64_t> base_pages_;
    std::vector<TileView> views_;

    /** Of the pages of one stream as they were last looked at. */
    struct Writes {
        std::vector<PageVersion> versions;  ///< per chunk of the index, from the one of the first page on
        std::vector<uint64_t> epochs;       ///< per page
    };
    bool remembered_ = false;
    std::vector<kernels::BlockVisibility> summary_;
    std::vector<Writes> writes_;  // per stream
};

}  // namespace atlas::attention
