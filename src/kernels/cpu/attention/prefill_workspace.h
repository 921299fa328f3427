#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"

namespace atlas::kernels::cpu {

inline constexpr int64_t kPad = 32;       // elements of a padded row: whole vectors, and whole steps of split products
inline constexpr int64_t kSumLanes = 16;  // of the widest vector

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/** The mask heads that the query heads of one group use: one, or (up to) one per head. */
inline int64_t masks_per_group(const AttentionArgs& args) {
    return args.mask.data == nullptr ? 1 : std::min(args.n_head / args.n_head_kv, args.mask.n_heads);
}

/** How keys, values and queries are packed: of vectors of f32, or of tiles of split numbers (split_products.h). */
struct PrefillShape {
    int64_t row_block;    ///< rows that are attended to at once
    int64_t decode_rows;  ///< rows of K or V that are packed at once
    int64_t most_rows;    ///< per task
};
inline constexpr PrefillShape kVectorShape{6, 4, 256};
inline constexpr PrefillShape kSplitShape{32, 16, 512};

/** Carves one task's workspace; the same code measures it (base nullptr) and lays it out. Of what is packed split, both parts lie in one place. */
struct PrefillWorkspace {
    float* k_panel;  // [d_k padded][kBlockKeys]; split: pairs [2][d_k padded / 2][kBlockKeys]
    float*
        v_panel;  // slices [kBlockKeys][width] of d_v padded columns in all; split: pairs [2][kBlockKeys / 2][d_v padded]
    float* q;     // [row blocks][d_k][row_block]; split: [2][rows][d_k padded]
    float* o;     // [rows][d_v padded]
    float* s;     // [row_block][kBlockKeys]
    float* weights;     // split: [2][row_block][kBlockKeys]
    float* max;         // [rows], base-2 logits
    float* sum;         // [rows][kSumLanes]
    float* correction;  // [row_block]
    float* decoded;     // decode_rows rows of K or V
    float* slopes;      // [group], ALiBi times log2 e
    uint16_t* mask_tile;
    const uint16_t** mask_rows;
    BlockVisibility* visibility;
    BlockVisibility* block_visibility;
    size_t bytes = 0;

    PrefillWorkspace(const AttentionArgs& args, const PrefillShape& shape, int64_t tokens, std::byte* base) {
        const int64_t group = args.n_head / args.n_head_kv;
        const int64_t rows = round_up(tokens * group, shape.row_block);
        const int64_t masks = tokens * masks_per_group(args);
        const int64_t d_k = round_up(args.d_k, kPad), d_v = round_up(args.d_v, kPad);
        const auto take = [&]<class T>(T*& out, int64_t n) {
            out = base == nullptr ? nullptr : reinterpret_cast<T*>(base + bytes);
            bytes += static_cast<size_t>(round_up(n * static_cast<int64_t>(sizeof(T)), 64));
        };
        take(k_panel, d_k * kBlockKeys);
        take(v_panel, d_v * kBlockKeys);
        take(q, rows * d_k);
        take(o, rows * d_v);
        take(s, shape.row_block * kBlockKeys);
        take(weights, shape.row_block * kBlockKeys);
        take(max, rows);
        take(sum, rows * kSumLanes);
        take(correction, shape.row_block);
        take(decoded, shape.decode_rows * std::max(d_k, d_v));
        take(slopes, group);
        take(mask_tile, masks * kBlockKeys);
        take(mask_rows, masks);
        take(visibility, masks);
        take(block_visibility, masks);
    }
};

}  // namespace atlas::kernels::cpu
