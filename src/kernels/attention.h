#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/data_type.h"
#include "base/status.h"

namespace atlas::kernels {

/** Keys per block: the granularity of pages, of mask summaries and of the sparse planner. */
inline constexpr int kBlockKeys = 64;
/** Of K and of V. */
inline constexpr int64_t kMaxHeadSize = 4096;

/** Run::cells of a run that has no gaps. */
inline constexpr uint64_t kAllCells = ~uint64_t{0};

/**
 * Keys whose K and V rows lie evenly spaced in memory (AttentionArgs::k_stride, v_stride). A page gives one run; plain memory gives one
 * long run; a sparse selection gives any subset of the keys, each key in at most one run.
 */
struct Run {
    const std::byte* k;  ///< K row of the first key; the KV head's offset (HeadRuns::k_offset) is added
    const std::byte* v;  ///< V row of the first key; HeadRuns::v_offset is added
    int32_t key;         ///< index of the first key: its column in the mask
    int32_t count;       ///< number of keys, > 0
    /** kAllCells: consecutive keys. Else the keys are key + j for the `count` bits j that are set; k, v and key are those of bit 0. */
    uint64_t cells = kAllCells;

    bool has_gaps() const { return cells != kAllCells; }
};

/**
 * The keys that one KV head of one stream (and one tile of tokens) attends to. Runs may have any length and be in any order; in ascending
 * order of keys, what the mask's summary says of a block is looked up once for all of its keys.
 */
struct HeadRuns {
    std::span<const Run> runs;
    int64_t k_offset = 0;  ///< bytes added to every Run::k
    int64_t v_offset = 0;  ///< bytes added to every Run::v
};

/** What is visible of one 64-key block to one token. */
enum class BlockVisibility : uint8_t {
    kNone = 0,   ///< every mask value is -inf
    kAll = 1,    ///< every mask value is +0 or -0
    kMixed = 2,  ///< anything else
};

/** Attention mask: f16, [n_mask_streams][n_mask_heads][token][key], keys contiguous; 0, -inf, or an additive bias. */
struct Mask {
    const uint16_t* data = nullptr;  ///< nullptr: everything visible, no bias
    int64_t token_stride = 0;        ///< elements between tokens
    int64_t head_stride = 0;         ///< elements between mask heads
    int64_t stream_stride = 0;       ///< elements between mask streams
    int64_t n_heads = 1;             ///< query head h uses mask head h % n_heads
    int64_t n_streams = 1;           ///< stream s uses mask stream s % n_streams
    /**
     * Optional summary made by summarize_mask: [n_streams][n_heads][n_tokens][summary_blocks] for blocks of kBlockKeys keys.
     * nullptr: the kernels look at the mask themselves.
     */
    const BlockVisibility* summary = nullptr;
    int64_t summary_blocks = 0;
};

/**
 * One attention operation: o = softmax(softcap(scale·q·kᵀ) + slope·mask, with an optional sink logit per head)·v.
 * Query head h reads KV head h / (n_head / n_head_kv). All strides in bytes. Logs are natural.
 */
struct AttentionArgs {
    int64_t d_k = 0;        ///< elements of a key and of a query row
    int64_t d_v = 0;        ///< elements of a value row and of an output row
    int64_t n_tokens = 0;   ///< query tokens per stream
    int64_t n_head = 0;     ///< query heads
    int64_t n_head_kv = 0;  ///< KV heads; divides n_head
    int64_t n_stream = 1;

    DataType k_type = DataType::kF16;
    DataType v_type = DataType::kF16;
    RowDecoder k_decode = nullptr;  ///< only for k_type kOther
    RowDecoder v_decode = nullptr;  ///< only for v_type kOther
    int64_t k_stride = 0;           ///< bytes between consecutive keys of a run
    int64_t v_stride = 0;

    const float* q = nullptr;  ///< f32, d_k contiguous elements per (token, head, stream)
    int64_t q_token_stride = 0;
    int64_t q_head_stride = 0;
    int64_t q_stream_stride = 0;

    float* out = nullptr;  ///< f32, d_v contiguous elements per (token, head, stream)
    int64_t out_token_stride = 0;
    int64_t out_head_stride = 0;
    int64_t out_stream_stride = 0;

    /**
     * Optional: log-sum-exp of the logits (sink included) per [stream][token][head], -inf where nothing is visible; `out` is then 0.
     * With it, partial results over disjoint key sets merge exactly (kernels/merge.h).
     */
    float* lse = nullptr;

    /**
     * Keys per [stream][kv_head][token / tokens_per_tile], so n_stream · n_head_kv · ceil(n_tokens / tokens_per_tile) entries.
     * tokens_per_tile ≥ n_tokens: one list for all tokens of a (stream, KV head).
     */
    const HeadRuns* runs = nullptr;
    int64_t tokens_per_tile = INT64_MAX;

    Mask mask;
    float scale = 1.0f;
    float max_bias = 0.0f;         ///< ALiBi: slope of head h from max_bias (2108.12409); 0: slope 1
    float softcap = 0.0f;          ///< 0: none; else logits become softcap·tanh(scale·qk/softcap)
    const float* sinks = nullptr;  ///< f32 [n_head] extra logits without a value, or nullptr
};

/** Table::check_attention of the chosen table. */
Status check_attention(const AttentionArgs& args);
/** Table::attention of the chosen table. */
Status attention(const AttentionArgs& args, int n_threads);
/** Table::summarize_mask of the chosen table. */
void summarize_mask(const Mask& mask, int64_t n_tokens, int64_t n_keys, BlockVisibility* out, int n_threads);

/** Slope of head `head` of `n_head` for ALiBi with `max_bias` (2108.12409, extended to head counts that are no power of two). */
float alibi_slope(float max_bias, int64_t head, int64_t n_head);

}  // namespace atlas::kernels
