#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"
#include "kv/page_table.h"

namespace atlas::attention {

/** Where the rows of K or V of a call lie: in pages of a table, or in plain memory. */
struct KvRows {
    const kv::PageTable* pages = nullptr;
    size_t offset = 0;                  ///< of key 0 of head 0 of stream 0, bytes from the table's start
    const std::byte* memory = nullptr;  ///< the same place without pages
    int64_t head_stride = 0;            ///< bytes between KV heads
    int64_t stream_stride = 0;          ///< bytes between streams
    int64_t row_bytes = 0;              ///< of one head's row
    int64_t key_stride = 0;             ///< bytes between keys: AttentionArgs::k_stride or v_stride

    /** Of a key's row, bytes from key 0 of head 0 of stream 0. */
    int64_t at(int64_t stream, int64_t head, int64_t key) const {
        return stream * stream_stride + head * head_stride + key * key_stride;
    }
    /** The same from the beginning of the table. */
    int64_t in_table(int64_t stream, int64_t head, int64_t key) const {
        return static_cast<int64_t>(offset) + at(stream, head, key);
    }
    /** Where rows are cells (AttentionCall::in_cells), bytes from a cell's beginning to a head's row. */
    int64_t in_cell(int64_t head) const {
        return static_cast<int64_t>(offset % pages->row_bytes()) + head * head_stride;
    }
    /** Cell of a page, which begins at `page`. */
    const std::byte* cell(const std::byte* page, int64_t number) const { return page + number * key_stride; }
};

/**
 * One attention operation and its geometry, without addresses of keys: what is known of it before it is decided which keys are read. No
 * other file computes with raw strides.
 */
struct AttentionCall {
    kernels::AttentionArgs args;  ///< runs and lse are not set
    int64_t n_keys = 0;
    int layer = 0;
    KvRows k, v;

    int64_t group() const { return args.n_head / args.n_head_kv; }
    /** Rows of arrays [stream][token][head]. */
    int64_t n_rows() const { return args.n_stream * args.n_tokens * args.n_head; }
    int64_t row(int64_t stream, int64_t token, int64_t head) const {
        return (stream * args.n_tokens + token) * args.n_head + head;
    }
    /** Row of arrays [stream][KV head][token][head of the group]. */
    int64_t far_row(int64_t stream, int64_t kv_head, int64_t token) const {
        return ((stream * args.n_head_kv + kv_head) * args.n_tokens + token) * group();
    }
    /** Query of a token and head, [d_k], not scaled. */
    const float* query(int64_t stream, int64_t token, int64_t head) const {
        return reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(args.q) +
                                              stream * args.q_stream_stride + token * args.q_token_stride +
                                              head * args.q_head_stride);
    }
    /** Where its output goes, [d_v]. */
    float* output(int64_t stream, int64_t token, int64_t head) const {
        return reinterpret_cast<float*>(reinterpret_cast<std::byte*>(args.out) + stream * args.out_stream_stride +
                                        token * args.out_token_stride + head * args.out_head_stride);
    }
    /** First mask value of a token's row, of a query head's mask. args.mask.data must be set. */
    const uint16_t* mask_row(int64_t stream, int64_t token, int64_t head) const {
        const kernels::Mask& mask = args.mask;
        return mask.data + (stream % mask.n_streams) * mask.stream_stride + (head % mask.n_heads) * mask.head_stride +
               token * mask.token_stride;
    }

    /** What a token's row shows of each block of keys, of a mask's head. args.mask.summary must be set. */
    const kernels::BlockVisibility* summary_row(int64_t stream, int64_t token, int64_t mask_head = 0) const {
        const kernels::Mask& mask = args.mask;
        return mask.summary +
               (((stream % mask.n_streams) * mask.n_heads + mask_head) * args.n_tokens + token) * mask.summary_blocks;
    }
    /** Entries of the mask's summary. */
    size_t summary_size() const {
        const kernels::Mask& mask = args.mask;
        return mask.data ? static_cast<size_t>(mask.n_streams * mask.n_heads * args.n_tokens * mask.summary_blocks) : 0;
    }

    /**
     * Whether K and V lie in pages cell by cell: a row of each table is one key of all heads, and every stream begins with the same page in
     * both. Only then can keys be selected and pages be pinned one by one.
     */
    bool in_cells() const { return rows_are_cells(k) && rows_are_cells(v) && same_pages(); }
    /** Of such a call: page of the tables that holds key 0 of a stream. */
    int64_t base_page(int64_t stream) const {
        return static_cast<int64_t>(k.offset / k.pages->page_bytes()) + stream * stream_pages(k);
    }

    /** Some of the tokens of a call of one stream, with one mask for all heads. */
    AttentionCall tokens(int64_t first, int64_t count) const {
        AttentionCall part = *this;
        part.args.n_tokens = count;
        part.args.q = query(0, first, 0);
        part.args.out = output(0, first, 0);
        if (args.mask.data) part.args.mask.data = mask_row(0, first, 0);
        if (args.mask.summary) part.args.mask.summary = summary_row(0, first);
        return part;
    }

private:
    static int64_t stream_pages(const KvRows& rows) {
        return rows.stream_stride / static_cast<int64_t>(rows.pages->page_bytes());
    }
    bool rows_are_cells(const KvRows& rows) const {
        if (!rows.pages || rows.key_stride != static_cast<int64_t>(rows.pages->row_bytes())) return false;
        const auto page = static_cast<int64_t>(rows.pages->page_bytes());
        const auto inside = static_cast<int64_t>(rows.offset % rows.pages->page_bytes());
        return (args.n_stream == 1 || rows.stream_stride % page == 0) &&
               inside + (args.n_head_kv - 1) * rows.head_stride + rows.row_bytes <= rows.key_stride;
    }
    bool same_pages() const {
        return k.offset / k.pages->page_bytes() == v.offset / v.pages->page_bytes() &&
               (args.n_stream == 1 || stream_pages(k) == stream_pages(v));
    }
};

/** How the tokens of a call are cut into tiles, and the number of each (stream, KV head, tile): lists in that order. */
struct Tiling {
    int64_t tokens = 1;  ///< per tile
    int64_t tiles = 1;   ///< per stream
    int64_t heads = 1;   ///< KV heads

    Tiling() = default;
    Tiling(const AttentionCall& call, int64_t tokens_per_tile)
        : tokens(tokens_per_tile),
          tiles((call.args.n_tokens + tokens_per_tile - 1) / tokens_per_tile),
          heads(call.args.n_head_kv) {}
    int64_t tile(int64_t list) const { return list % tiles; }
    int64_t head(int64_t list) const { return list / tiles % heads; }
    int64_t stream(int64_t list) const { return list / tiles / heads; }
    /** Of (stream, tile) pairs. */
    size_t view(int64_t list) const { return static_cast<size_t>(stream(list) * tiles + tile(list)); }
    int64_t list(int64_t stream, int64_t head, int64_t tile) const { return (stream * heads + head) * tiles + tile; }
};

}  // namespace atlas::attention
