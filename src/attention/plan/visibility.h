#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "attention/call.h"
#include "attention/index/key_index.h"
#include "attention/settings.h"
#include "kernels/attention.h"

namespace atlas::attention {

/** What a tile of tokens does with one page of 64 keys. */
enum class PageUse : uint8_t {
    kSkip,     ///< no token sees any key
    kExact,    ///< read whole: sink or window
    kFar,      ///< all keys visible to every token of the tile: selected or estimated
    kFarSome,  ///< all keys visible to some tokens, none to the others
    kFarPart,  ///< some token sees a part, or sees keys with a bias: selected key by key, the rest estimated only for tokens that see all keys
};

/** Whether what is not selected may be estimated, apart from what single tokens of kFarPart pages see. */
inline bool is_far(PageUse use) { return use == PageUse::kFar || use == PageUse::kFarSome; }
inline bool is_selected_from(PageUse use) { return use >= PageUse::kFar; }

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

/** The pages of one stream as seen by one tile of tokens; the same for all KV heads. */
struct TileView {
    int64_t stream = 0;
    int64_t token0 = 0;
    int64_t tokens = 0;
    int64_t base_page = 0;  ///< page of the index that holds key 0 of the stream
    bool exact = false;     ///< everything visible is read
    int64_t visible = 0;    ///< keys that the token that sees most saw when this was made: a plan is kept while the newest page fills
    int64_t far_pages = 0;  ///< of which the rest may be estimated
    int64_t newest_page = -1;          ///< the visible page that was written last, unless `exact`
    std::vector<PageUse> use;          ///< per page of 64 keys
    std::vector<KeyRange> exact_keys;  ///< what the pages of use kExact hold, ascending, as few ranges as possible
    std::vector<int32_t> selected_from;  ///< pages of the other uses but kSkip, ascending
    std::vector<uint64_t> parts;       ///< per kFarPart page in that order and token: which keys it sees
};

/** Upper bound of the keys that the token that sees most sees, over all streams and tokens. The mask's summary must be there. */
int64_t most_visible(const AttentionCall& call);

/** Classifies the pages for view.stream and view.token0…+tokens, filling the rest of `view`. Throws std::bad_alloc. */
void classify_pages(const AttentionCall& call, const Settings& settings, const KeyIndex& index, TileView* view);

/** What `token` sees of page `page` of its stream: kMixed where mask heads differ. */
inline kernels::BlockVisibility visibility_of(const AttentionCall& call, int64_t stream, int64_t token, int64_t page) {
    const kernels::Mask& mask = call.args.mask;
    if (!mask.data) return kernels::BlockVisibility::kAll;
    const kernels::BlockVisibility seen = call.summary_row(stream, token)[page];
    for (int64_t head = 1; head < mask.n_heads; ++head) {
        if (call.summary_row(stream, token, head)[page] != seen) return kernels::BlockVisibility::kMixed;
    }
    return seen;
}

/** Which of the page's keys `token` sees through some mask head: bit per key. */
uint64_t visible_cells(const AttentionCall& call, int64_t stream, int64_t token, int64_t page);

}  // namespace atlas::attention
