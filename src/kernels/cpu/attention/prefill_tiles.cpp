#include "kernels/cpu/attention/prefill_tiles.h"

#include <algorithm>
#include <bit>

#include "kernels/cpu/attention/visibility.h"

namespace atlas::kernels::cpu {

namespace {

constexpr uint16_t kMinusInf = 0xFC00;

}  // namespace

TileWalker::TileWalker(const AttentionArgs& args, const HeadRuns& runs, int64_t begin, int64_t end, int64_t stream,
                       int64_t first_token, int64_t n_tokens, int64_t first_mask_head, int64_t n_mask_heads,
                       BlockVisibility* visibility, BlockVisibility* block_visibility, const uint16_t** mask_rows,
                       uint16_t* mask_tile)
    : args_(args),
      runs_(runs),
      stream_(stream),
      first_token_(first_token),
      n_tokens_(n_tokens),
      first_head_(first_mask_head),
      n_heads_(n_mask_heads),
      visibility_(visibility),
      seen_(block_visibility),
      mask_rows_(mask_rows),
      mask_tile_(mask_tile),
      left_(end - begin) {
    size_t run = 0;
    while (run < runs.runs.size() && begin >= runs.runs[run].count) begin -= runs.runs[run++].count;
    enter(place_, run);
    if (place_.cells == kAllCells) {
        place_.offset = static_cast<int32_t>(begin);
    } else {
        for (; begin > 0; --begin) place_.cells &= place_.cells - 1;
    }
}

void TileWalker::enter(Place& place, size_t run) const {
    place.run = run;
    place.offset = 0;
    if (run < runs_.runs.size()) place.cells = runs_.runs[run].cells;
}

Segment TileWalker::take(Place& place, int64_t most) const {
    const Run& run = runs_.runs[place.run];
    const int32_t first = run.has_gaps() ? std::countr_zero(place.cells) : place.offset;
    const int32_t neighbours = run.has_gaps() ? std::countr_one(place.cells >> first) : run.count - first;
    const int32_t key = run.key + first;
    const int32_t to_block_end = kBlockKeys - key % kBlockKeys;
    const int32_t count =
        std::min({static_cast<int32_t>(std::min<int64_t>(most, kBlockKeys)), neighbours, to_block_end});
    if (run.has_gaps()) {
        const int32_t end = first + count;
        place.cells = end == 64 ? 0 : place.cells >> end << end;
        if (place.cells == 0) enter(place, place.run + 1);
    } else {
        place.offset = first + count;
        if (place.offset == run.count) enter(place, place.run + 1);
    }
    return {run.k + runs_.k_offset + first * args_.k_stride, run.v + runs_.v_offset + first * args_.v_stride, key,
            count};
}

const uint16_t* TileWalker::mask_at(int64_t t, int64_t i) const {
    const Mask& mask = args_.mask;
    return mask.data + (stream_ % mask.n_streams) * mask.stream_stride +
           ((first_head_ + i) % mask.n_heads) * mask.head_stride + (first_token_ + t) * mask.token_stride;
}

void TileWalker::look_at(const Segment& segment) {
    const Mask& mask = args_.mask;
    if (mask.data == nullptr) return;
    const int64_t block = segment.key / kBlockKeys;
    const auto summary_row = [&](int64_t i) {  // of token first_token_
        const int64_t head = (stream_ % mask.n_streams) * mask.n_heads + (first_head_ + i) % mask.n_heads;
        return mask.summary + (head * args_.n_tokens + first_token_) * mask.summary_blocks;
    };
    if (mask.summary != nullptr) {
        // Single cells come several to a block.
        if (block == block_) return;
        block_ = block;
        if (block / kBlockGroup != group_) {
            group_ = block / kBlockGroup;
            const int64_t n = std::min(kBlockGroup, mask.summary_blocks - group_ * kBlockGroup);
            std::fill_n(differs_, kBlockGroup, uint8_t{0});
            for (int64_t i = 0; i < n_heads_; ++i) {
                const BlockVisibility* row = summary_row(i) + group_ * kBlockGroup;
                for (int64_t t = 0; t < n_tokens_; ++t, row += mask.summary_blocks) {
                    for (int64_t b = 0; b < n; ++b)
                        differs_[b] |= static_cast<uint8_t>(row[b]) ^ static_cast<uint8_t>(BlockVisibility::kAll);
                }
            }
        }
        if (differs_[block % kBlockGroup] == 0) {
            seen_any_ = seen_all_ = true;
            return;
        }
    }
    seen_any_ = false;
    seen_all_ = true;
    for (int64_t i = 0; i < n_heads_; ++i) {
        for (int64_t t = 0; t < n_tokens_; ++t) {
            BlockVisibility seen;
            if (mask.summary != nullptr) {
                seen = summary_row(i)[t * mask.summary_blocks + block];
            } else {
                classify_blocks(mask_at(t, i) + segment.key, segment.count, &seen);  // of one block
            }
            seen_[t * n_heads_ + i] = seen;
            seen_any_ |= seen != BlockVisibility::kNone;
            seen_all_ &= seen == BlockVisibility::kAll;
        }
    }
}

void TileWalker::append(KeyTile& tile, const Segment& segment) {
    look_at(segment);
    if (!seen_any_) return;
    const int64_t n = n_tokens_ * n_heads_;
    if (tile.n_segments == 0) {
        tile_all_ = seen_all_;
        if (!seen_all_) std::copy_n(seen_, n, visibility_);
    } else if (!tile_all_ || !seen_all_) {
        if (tile_all_) std::fill_n(visibility_, n, BlockVisibility::kAll);
        tile_all_ = false;
        for (int64_t j = 0; j < n; ++j) {
            const BlockVisibility seen = seen_all_ ? BlockVisibility::kAll : seen_[j];
            if (visibility_[j] != seen) visibility_[j] = BlockVisibility::kMixed;
        }
    }
    tile.segments[tile.n_segments++] = segment;
    tile.n_keys += segment.count;
}

void TileWalker::finish(const KeyTile& tile) {
    if (tile_all_) std::fill_n(visibility_, n_tokens_ * n_heads_, BlockVisibility::kAll);
    const uint64_t present = tile.n_keys == kBlockKeys ? ~uint64_t{0} : (uint64_t{1} << tile.n_keys) - 1;
    visible_keys_ = present;
    if (tile.n_keys < kBlockKeys) {
        std::fill_n(padded_row_, tile.n_keys, uint16_t{0});
        std::fill(padded_row_ + tile.n_keys, padded_row_ + kBlockKeys, kMinusInf);
    }
    bool some_all = false;
    uint16_t seen[kBlockKeys] = {};
    const bool direct = tile.n_segments == 1 && tile.n_keys == kBlockKeys;
    for (int64_t t = 0; t < n_tokens_; ++t) {
        for (int64_t i = 0; i < n_heads_; ++i) {
            const int64_t row = t * n_heads_ + i;
            if (visibility_[row] == BlockVisibility::kNone) continue;
            if (visibility_[row] == BlockVisibility::kAll) {
                some_all = true;
                if (tile.n_keys < kBlockKeys) {
                    visibility_[row] = BlockVisibility::kMixed;
                    mask_rows_[row] = padded_row_;
                }
                continue;
            }
            const uint16_t* mask = mask_at(t, i);
            if (direct) {
                mask_rows_[row] = mask + tile.segments[0].key;
            } else {
                uint16_t* dst = mask_tile_ + row * kBlockKeys;
                mask_rows_[row] = dst;
                for (int s = 0; s < tile.n_segments; ++s) {
                    const Segment& segment = tile.segments[s];
                    dst = std::copy_n(mask + segment.key, segment.count, dst);
                }
                std::fill(dst, mask_tile_ + (row + 1) * kBlockKeys, kMinusInf);
            }
            if (!some_all) {
                const uint16_t* values = mask_rows_[row];
                for (int j = 0; j < kBlockKeys; ++j) seen[j] |= static_cast<uint16_t>(values[j] ^ kMinusInf);
            }
        }
    }
    if (!some_all) {
        visible_keys_ = 0;
        for (int j = 0; j < kBlockKeys; ++j) visible_keys_ |= static_cast<uint64_t>(seen[j] != 0) << j;
    }
}

void TileWalker::upcoming(KeyTile& tile) const {
    tile.n_segments = 0;
    tile.n_keys = 0;
    Place place = place_;
    for (int64_t left = std::min<int64_t>(left_, kBlockKeys); left > 0;) {
        const Segment segment = take(place, left);
        tile.segments[tile.n_segments++] = segment;
        tile.n_keys += segment.count;
        left -= segment.count;
    }
}

bool TileWalker::next(KeyTile& tile) {
    tile.n_segments = 0;
    tile.n_keys = 0;
    while (place_.run < runs_.runs.size() && left_ > 0 && tile.n_keys < kBlockKeys) {
        const Segment segment = take(place_, std::min<int64_t>(left_, kBlockKeys - tile.n_keys));
        append(tile, segment);
        left_ -= segment.count;
    }
    if (tile.n_keys == 0) return false;
    finish(tile);
    return true;
}

}  // namespace atlas::kernels::cpu
