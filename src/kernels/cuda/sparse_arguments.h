#pragma once

#include "kernels/cuda/arguments.h"
#include "kernels/cuda/shapes.h"

// What the kernels of sparse attention are handed (arguments.h says how). Codes of keys and what is done with them: kernels/codes.h.

namespace atlas::kernels::cuda {

/** kernels::CodeShape: where the parts of a page of codes begin, in bytes. */
struct CodeLayout {
    int32_t d, d_v;  ///< d a multiple of 16; both at most kMaxHead
    int32_t key_scale, mean, value_mean, factors;
};

/** Rows of queries, scaled and rotated, in f32 and in eight bits. Row (stream, token, head) is number (stream · n_tokens + token) · n_head + head. */
struct PrepareArguments {
    const float* q;                                    ///< d_k elements per row; 4-byte alignment
    int64_t token_stride, head_stride, stream_stride;  ///< elements
    const float* signs;                                ///< [2][d] of ±1, or nullptr: not rotated
    float* exact;                                      ///< [rows][d]
    int8_t* codes;                                     ///< [rows][d], or nullptr, and then what follows too
    float* scale;                                      ///< [rows]
    float* offset;                                     ///< [rows]
    float* squares;                                    ///< [rows]
    int32_t rows, n_tokens, n_head;
    int32_t d_k, d;        ///< elements from d_k on are 0
    int32_t largest_code;  ///< kernels::largest_query_code(d)
    float factor;          ///< of the queries
};

/** A page of which keys are selected: every row of a list sees all its 64 keys, and no mask adds to any. */
struct FarPage {
    const unsigned char* k;  ///< as in Page
    const unsigned char* v;
    unsigned char* codes;  ///< those of KV head 0; a list's code_offset is added; 64-byte alignment
    int64_t key;
};

/** The pages that one KV head of one stream and tile of tokens selects from. */
struct FarList {
    uint32_t begin = 0, end = 0;  ///< of pages
    int64_t k_offset = 0, v_offset = 0, code_offset = 0;
};

/** Codes of pages from their keys and values. Grid: (pages, KV heads). */
struct EncodeArguments {
    const FarPage* pages;
    int64_t k_head_stride, v_head_stride, code_head_stride;  ///< bytes from head to head in a page
    int64_t k_stride, v_stride;                              ///< bytes from key to key
    const float* signs;                                      ///< [2][d], or nullptr: the keys are rotated already
    unsigned* broken;                                        ///< [pages][heads]: 1 where a key or a value is not finite
    CodeLayout layout;
    RowType k_type, v_type;  ///< also kF32
    int32_t d_k;
};

/**
 * Sparse attention of lists whose near keys have been attended to: attention.out and near_lse hold that part. Three launches, with attention over `selected`
 * between the second and the third; grid of each: (lists, attention.splits).
 *  - score_pages: what each page weighs for each row, and which pages may hold keys to be selected;
 *  - share_keys: the shares of their keys, and which are selected;
 *  - attend_rest: attention to all others by their pages' mean values, merged with the other two parts into attention.out and attention.lse.
 * A list has at most kMostSparseRows rows. Logs are to base 2 where nothing is said.
 */
struct SparseArguments {
    AttentionArguments
        attention;  ///< sizes, tiles, out, lse (nullptr: not asked for), tickets [lists], splits, softcap
    const FarPage* pages;
    const FarList* lists;
    CodeLayout layout;
    const float* exact;     ///< queries, as PrepareArguments makes them, scaled by attention's scale · log2(e)
    const int8_t* codes;    ///< likewise
    const float* scale;     ///< likewise
    const float* offset;    ///< likewise
    const float* squares;   ///< likewise
    const float* near_lse;  ///< [row] natural

    // Between the launches; p is a page's place in its list, below page_stride.
    Softmax* sums;    ///< [list][row of the list][p] of a page's keys
    float* bounds;    ///< [list][p] no key of it has a larger share
    float* levels;    ///< [list] shares are looked at where bounds reach this
    float* whole;     ///< [row] log of all its attention
    float* shares;    ///< [list][p][64]
    uint64_t* cells;  ///< [list][p] bit per selected key
    float* logits;    ///< [list][row of the list][p][64] of the codes, for tests; or nullptr
    Page* selected;   ///< [list][page_stride]
    PageList* selected_lists;

    const float* selected_out;  ///< [row][d_v] of attention over `selected`
    const float* selected_lse;  ///< [row] natural
    float* partial;             ///< [row][splits][d_v + 1]: of the rest: sum of weighted values, sum of weights
    int32_t page_stride;        ///< pages of the longest list
    int32_t least, most;        ///< keys to be selected of a list, least ≤ most
    float share;                ///< above `least`: of a token's attention, summed over the heads of the group
    int32_t with_rest;          ///< 0: what is not selected is left out
};

}  // namespace atlas::kernels::cuda
