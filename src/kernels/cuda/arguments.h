#pragma once

#include <cstdint>

// What a launch hands to a kernel: one plain struct each, the same bytes for nvcc, for the host and for the emulator. Every pointer is
// one of device memory (or of mapped host memory) and aligned to 16 bytes unless its comment says otherwise; strides say their unit.

namespace atlas::kernels::cuda {

/** Formats of K and V rows, blocks as in GGUF. */
enum class RowType : int32_t {
    kF16 = 0,
    kBF16 = 1,
    kQ8_0 = 2,  ///< blocks of 32: f16 scale, 32 signed bytes
    kQ4_0 =
        3,  ///< blocks of 32: f16 scale, 16 bytes; element i in the low half of byte i, i + 16 in its high half, minus 8
    kF32 = 4,  ///< read by encode_pages alone
};

/** Keys of a page. */
inline constexpr int kPageKeys = 64;
/** Largest head size, of K and of V. */
inline constexpr int kMaxHead = 256;

/** One page of keys: an address for K and one for V, which may be anywhere. */
struct Page {
    const unsigned char*
        k;  ///< K row of cell 0; a list's k_offset is added. 2-byte alignment for blocks, 16 for floats
    const unsigned char* v;
    uint64_t cells;  ///< bit j: key `key` + j is there, its rows j strides behind the first
    int64_t key;     ///< column of cell 0 in the mask
};

/** The pages that one KV head of one stream and tile of tokens attends to. */
struct PageList {
    uint32_t begin = 0, end = 0;  ///< of pages
    int64_t k_offset = 0;         ///< bytes
    int64_t v_offset = 0;
};

/**
 * o = softmax(softcap(scale·q·kᵀ) + slope·mask, sink)·v, as kernels::AttentionArgs describes it. A block takes one list, `rows` of its rows
 * (a row is a token and a query head of the group: token · group + head) and one of `splits` parts of its pages; the last block of a list
 * and its rows merges the parts. Grid: (n_stream · n_head_kv · tiles · row blocks, splits).
 */
struct AttentionArguments {
    const Page* pages;
    const PageList* lists;  ///< [n_stream][n_head_kv][tiles]

    const float* q;          ///< d_k elements per (token, head, stream)
    int64_t q_token_stride;  ///< elements, multiples of 4
    int64_t q_head_stride;
    int64_t q_stream_stride;
    float* out;  ///< d_v elements, likewise
    int64_t out_token_stride;
    int64_t out_head_stride;
    int64_t out_stream_stride;
    float* lse;  ///< [n_stream][n_tokens][n_head] natural log-sum-exp, or nullptr

    const uint16_t* mask;  ///< f16, or nullptr: all visible; 2-byte alignment
    int64_t mask_token_stride;
    int64_t mask_head_stride;
    int64_t mask_stream_stride;
    const float* slopes;  ///< [n_head] factor of the mask, or nullptr: 1
    const float* sinks;   ///< [n_head] logits without a value, or nullptr

    float*
        partial;  ///< [row][splits][d_v + 2]: sum of weighted values, its maximum (base 2), its denominator; splits > 1
    unsigned* tickets;  ///< [lists · row blocks], 0 before a launch and after it; splits > 1

    int64_t k_stride, v_stride;  ///< bytes from key to key in a page
    RowType k_type, v_type;
    int32_t d_k, d_v;  ///< multiples of 8, of blocks of 32; at most kMaxHead
    int32_t n_tokens, n_head, n_head_kv, n_stream;
    int32_t tile_tokens, tiles;  ///< tokens per list, lists per (stream, KV head)
    int32_t mask_heads, mask_streams;
    int32_t splits;
    float scale, softcap;  ///< softcap 0: none
};

/** Rows of f32 into pages of a cache: row r becomes the cell cells[r], in its type, bit for bit as GGUF's reference quantisers do. */
struct WriteArguments {
    const float* source;          ///< [rows][n]
    int64_t source_stride;        ///< elements, a multiple of 4
    unsigned char* const* pages;  ///< address of cell 0 of each page
    const int64_t* cells;         ///< [rows]: page · kPageKeys + place in the page; negative: not written
    int64_t row_stride;           ///< bytes from cell to cell
    int64_t offset;               ///< bytes of a cell before the row
    int32_t rows, n;              ///< n a multiple of 2, of blocks of 32
    RowType type;
};

}  // namespace atlas::kernels::cuda
