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
    /**
     * Keys [begin, end) of the list, counted over its runs. `visibility` and `block_visibility` have n_tokens · n_mask_heads entries, `mask_rows`
     * as many pointers, `mask_tile` kBlockKeys times as many halves.
     */
    TileWalker(const AttentionArgs& args, const HeadRuns& runs, int64_t begin, int64_t end, int64_t stream,
               int64_t first_token, int64_t n_tokens, int64_t first_mask_head, int64_t n_mask_heads,
               BlockVisibility* visibility, BlockVisibility* block_visibility, const uint16_t** mask_rows,
               uint16_t* mask_tile);

    /** The next tile, or false at the end. Fills the arrays below for it. */
    bool next(KeyTile& tile);

    /** The keys that most likely follow the current tile, for prefetching; none at the end. */
    void upcoming(KeyTile& tile) const;
    /** What mask head `i` (relative to the first) lets token `t` see of the tile. */
    BlockVisibility visibility(int64_t t, int64_t i) const { return visibility_[t * n_heads_ + i]; }
    /** Its kBlockKeys mask values, -inf beyond the tile's keys; only for kMixed. */
    const uint16_t* mask_row(int64_t t, int64_t i) const { return mask_rows_[t * n_heads_ + i]; }
    /** Whether some token sees key `j` of the tile. */
    bool key_visible(int j) const { return (visible_keys_ >> j & 1) != 0; }

private:
    /** Where the walk is in the list. */
    struct Place {
        size_t run = 0;
        int32_t offset = 0;          // keys of the run already passed; 0 if it has gaps
        uint64_t cells = kAllCells;  // of a run with gaps: those not yet passed
    };
    void enter(Place& place, size_t run) const;
    /** The neighbours that come next, `most` at most, inside one block of the mask; moves the place behind them. */
    Segment take(Place& place, int64_t most) const;
    void look_at(const Segment& segment);
    void append(KeyTile& tile, const Segment& segment);
    void finish(const KeyTile& tile);
    const uint16_t* mask_at(int64_t t, int64_t i) const;

    const AttentionArgs& args_;
    const HeadRuns& runs_;
    int64_t stream_, first_token_, n_tokens_, first_head_, n_heads_;
    BlockVisibility* visibility_;
    BlockVisibility* seen_;  // what look_at saw
    const uint16_t** mask_rows_;
    uint16_t* mask_tile_;
    Place place_;
    int64_t left_;          // keys still to visit
    int64_t block_ = -1;    // looked at last, in the mask's summary
    bool seen_any_ = true;  // some of the tokens see it
    bool seen_all_ = true;  // all see it as it is, and seen_ is not written
    bool tile_all_ = true;  // all see the whole tile as it is, and visibility_ is not written
    // Rows of the summary lie far apart: of each, a cache line is read at once.
    static constexpr int64_t kBlockGroup = 64;
    int64_t group_ = -1;
    uint8_t differs_[kBlockGroup];  // of the blocks of the group: 0 if all tokens see it as it is
    uint64_t visible_keys_ = 0;
    uint16_t padded_row_[kBlockKeys];  // for a short tile: 0 for its keys, -inf beyond
};

}  // namespace atlas::kernels::cpu
