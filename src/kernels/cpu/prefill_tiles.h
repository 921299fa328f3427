#pragma once

#include <cstdint>

#include "kernels/attention.h"

namespace atlas::kernels::cpu {

/** Consecutive keys of one run inside one 64-key block of the mask. */
struct Segment {
    const std::byte* k;
    const std::byte* v;
    int32_t key;
    int32_t count;
};

/** Up to kBlockKeys keys, gathered from as many runs as it takes, none of them masked for every token. */
struct KeyTile {
    Segment segments[kBlockKeys];
    int n_segments = 0;
    int n_keys = 0;
};

/**
 * Walks the keys of one HeadRuns in tiles for a range of tokens and decides what of each tile a token sees. Keys that no token sees
 * are left out without touching K or V.
 */
class TileWalker {
public:
    /** Keys [begin, end) of the list, counted over its runs. `visibility` has n_tokens · n_mask_heads entries, `mask_rows` as many pointers, `mask_tile` kBlockKeys times as many halves. */
    TileWalker(const AttentionArgs& args, const HeadRuns& runs, int64_t begin, int64_t end, int64_t stream,
               int64_t first_token, int64_t n_tokens, int64_t first_mask_head, int64_t n_mask_heads,
               BlockVisibility* visibility, const uint16_t** mask_rows, uint16_t* mask_tile);

    /** The next tile, or false at the end. Fills the arrays below for it. */
    bool next(KeyTile& tile);

    /** The keys that most likely follow the current tile, for prefetching; count 0 at the end. */
    Segment upcoming() const;
    /** What mask head `i` (relative to the first) lets token `t` see of the tile. */
    BlockVisibility visibility(int64_t t, int64_t i) const { return visibility_[t * n_heads_ + i]; }
    /** Its kBlockKeys mask values, -inf beyond the tile's keys; only for kMixed. */
    const uint16_t* mask_row(int64_t t, int64_t i) const { return mask_rows_[t * n_heads_ + i]; }
    /** Whether some token sees key `j` of the tile. */
    bool key_visible(int j) const { return (visible_keys_ >> j & 1) != 0; }

private:
    void append(KeyTile& tile, const Segment& segment);
    void finish(const KeyTile& tile);
    const uint16_t* mask_at(int64_t t, int64_t i) const;

    const AttentionArgs& args_;
    const HeadRuns& runs_;
    int64_t stream_, first_token_, n_tokens_, first_head_, n_heads_;
    BlockVisibility* visibility_;
    const uint16_t** mask_rows_;
    uint16_t* mask_tile_;
    size_t run_ = 0;
    int32_t offset_ = 0;  // keys of run_ already consumed
    int64_t left_;        // keys still to visit
    uint64_t visible_keys_ = 0;
    uint16_t padded_row_[kBlockKeys];  // for a short tile: 0 for its keys, -inf beyond
};

}  // namespace atlas::kernels::cpu
