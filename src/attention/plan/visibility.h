#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "attention/index/kv_index.h"
#include "attention/settings.h"
#include "kernels/attention.h"

namespace atlas::attention {

/** What a tile of tokens does with one page of 64 keys. */
enum class PageUse : uint8_t {
    kSkip,     ///< no token sees any key
    kExact,    ///< read: sink, window, or visible in part to some token
    kFar,      ///< all keys visible to every token of the tile: selected or estimated
    kFarSome,  ///< all keys visible to some tokens, none to the others
};

inline bool is_far(PageUse use) { return use == PageUse::kFar || use == PageUse::kFarSome; }

/** First key and number of keys to read. */
struct KeyRange {
    int64_t key;
    int64_t count;
};

/** Some keys of one page, not none. */
struct PageCells {
    int64_t key;     ///< first key of the page
    uint64_t cells;  ///< bit per key
};

/** Calls take(key, count) for neighbours among the keys, ascending. */
template <typename Take>
void for_each_range(const PageCells& page, Take take) {
    for (uint64_t left = page.cells; left != 0;) {
        const int begin = std::countr_zero(left);
        const int count = std::countr_one(left >> begin);
        take(page.key + begin, static_cast<int64_t>(count));
        if (begin + count == 64) break;
        left &= ~uint64_t{0} << (begin + count);
    }
}

/** The lanes of one panel of the index whose pages are far ones. */
struct FarPanel {
    int64_t panel;
    uint16_t lanes;   ///< bit per lane
    bool all_tokens;  ///< every token of the tile sees all of them
    bool whole;       ///< all lanes, and every token sees them: the super-block may stand for them
};

/** The pages of one stream as seen by one tile of tokens; the same for all KV heads. */
struct TileView {
    int64_t stream = 0;
    int64_t token0 = 0;
    int64_t tokens = 0;
    int64_t base_page = 0;  ///< page of the index that holds key 0 of the stream
    bool exact = false;     ///< everything visible is read
    int64_t visible = 0;    ///< keys that the token that sees most sees, whole blocks counted
    int64_t far_pages = 0;
    int64_t newest_page = -1;          ///< the visible page that was written last, unless `exact`
    std::vector<PageUse> use;          ///< per page of 64 keys
    std::vector<KeyRange> exact_keys;  ///< what the pages of use kExact hold, ascending, as few ranges as possible
    std::vector<FarPanel> panels;      ///< of the far pages, ascending (far_groups.h)
};

/** Visible keys (whole blocks counted) of the token that sees most, over all streams and tokens. args.mask.summary may be null. */
int64_t most_visible(const kernels::AttentionArgs& args, int64_t n_keys);

/** Classifies the pages for view.stream and view.token0…+tokens, filling the rest of `view`. */
void classify_pages(const kernels::AttentionArgs& args, int64_t n_keys, const Settings& settings, const KvIndex& index,
                    TileView* view);

/** What `token` sees of page `page` of its stream. */
inline kernels::BlockVisibility visibility_of(const kernels::AttentionArgs& args, int64_t stream, int64_t token,
                                              int64_t page) {
    const kernels::Mask& mask = args.mask;
    if (!mask.data) return kernels::BlockVisibility::kAll;
    return mask.summary[((stream % mask.n_streams) * args.n_tokens + token) * mask.summary_blocks + page];
}

/** Query of head `head` of a token, [d_k], not scaled. */
inline const float* query_of(const kernels::AttentionArgs& args, int64_t stream, int64_t token, int64_t head) {
    return reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(args.q) + stream * args.q_stream_stride +
                                          token * args.q_token_stride + head * args.q_head_stride);
}

}  // namespace atlas::attention
