#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"

namespace atlas::kernels::cpu {

inline constexpr int64_t kRowBlock = 6;  // rows of a register block, on every target
inline constexpr int64_t kPad = 16;      // elements of the widest vector

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/** The mask heads that the query heads of one group use: one, or (up to) one per head. */
inline int64_t masks_per_group(const AttentionArgs& args) {
    return args.mask.data == nullptr ? 1 : std::min(args.n_head / args.n_head_kv, args.mask.n_heads);
}

/** Carves one task's workspace; the same code measures it (base nullptr) and lays it out. */
struct PrefillWorkspace {
    float* k_panel;     // [d_k padded][kBlockKeys]
    float* v_panel;     // slices [kBlockKeys][width] of d_v padded columns in all
    float* q;           // [row blocks][d_k][kRowBlock]
    float* o;           // [rows][d_v padded]
    float* s;           // [kRowBlock][kBlockKeys]
    float* max;         // [rows], base-2 logits
    float* sum;         // [rows][kPad], lane-wise
    float* correction;  // [kRowBlock]
    float* decoded;     // 4 rows of K or V
    float* slopes;      // [group], ALiBi times log2 e
    uint16_t* mask_tile;
    const uint16_t** mask_rows;
    BlockVisibility* visibility;
    BlockVisibility* block_visibility;
    size_t bytes = 0;

    PrefillWorkspace(const AttentionArgs& args, int64_t tokens, std::byte* base) {
        const int64_t group = args.n_head / args.n_head_kv;
        const int64_t rows = round_up(tokens * group, kRowBlock);
        const int64_t masks = tokens * masks_per_group(args);
        const int64_t d_k = round_up(args.d_k, kPad), d_v = round_up(args.d_v, kPad);
        const auto take = [&]<class T>(T*& out, int64_t n) {
            out = base == nullptr ? nullptr : reinterpret_cast<T*>(base + bytes);
            bytes += static_cast<size_t>(round_up(n * static_cast<int64_t>(sizeof(T)), 64));
        };
        take(k_panel, d_k * kBlockKeys);
        take(v_panel, d_v * kBlockKeys);
        take(q, rows * args.d_k);
        take(o, rows * d_v);
        take(s, kRowBlock * kBlockKeys);
        take(max, rows);
        take(sum, rows * kPad);
        take(correction, kPad);
        take(decoded, 4 * std::max(d_k, d_v));
        take(slopes, group);
        take(mask_tile, masks * kBlockKeys);
        take(mask_rows, masks);
        take(visibility, masks);
        take(block_visibility, masks);
    }
};

}  // namespace atlas::kernels::cpu
