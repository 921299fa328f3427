#pragma once

#include <cstdint>

#include "kernels/cpu/attention/problem.h"

namespace atlas::kernels::cpu {

/** Up to kBlockKeys keys of a list, wherever their rows lie: neighbours of one run or cells of many. */
struct RowBatch {
    const std::byte* k[kBlockKeys];  ///< K rows, the KV head's offset applied; from `count` on the last one again
    const std::byte* v[kBlockKeys];
    int32_t key[kBlockKeys];
    size_t count = 0;
    bool even;            ///< all of one run: evenly spaced, and key[j] = key[0] + j
    bool mixed;           ///< some token does not see all of them as they are: their mask counts
    int64_t first, last;  ///< tokens before and after these see none of them
};

/** Walks the keys of one list in batches that are full but for the last, leaving out blocks that no token sees. */
class RowBatches {
public:
    /**
     * Keys [begin, end) of the list of `kv_head`, counted over its runs; what `tokens` tokens from `token0` on see of them through the mask of
     * any query head of `kv_heads` KV heads. `visibility` is a workspace of visibility_rows() pointers.
     */
    RowBatches(const Problem& problem, int64_t stream, int64_t kv_head, int64_t kv_heads, int64_t list, int64_t begin,
               int64_t end, int64_t token0, int64_t tokens, const BlockVisibility** visibility);

    static int64_t visibility_rows(const Problem& problem, int64_t kv_heads, int64_t tokens);

    /** The next batch, or false at the end. */
    bool next(RowBatch& batch);

private:
    /** What the tokens see of one block. */
    struct Sight {
        bool mixed;
        int64_t first, last;  // tokens; none if last < first
    };
    void look_at(int64_t block);
    void next_run();
    /** What the tokens see of the block of `key` into the batch; whether they see anything. */
    bool note_sight(RowBatch& batch, int64_t key);
    /** Puts cells of a run with gaps behind the `n` keys of the batch, as many as lie in one block of the mask; returns the new n. */
    int64_t take_cells(RowBatch& batch, int64_t n);

    const AttentionArgs& args_;
    const HeadRuns& list_;
    const int64_t tokens_;
    const BlockVisibility** visibility_;  // [token][mask head]: rows of the mask's summary
    int64_t mask_heads_ = 0;              // 0: there is no summary
    const Run* run_;
    int64_t offset_;  // keys of run_ already passed; 0 if it has gaps
    uint64_t cells_;  // of a run with gaps: those not yet passed
    int64_t left_;    // keys still to visit
    int64_t block_ = -1;
    Sight sight_;  // of block_; without a summary, of all blocks
};

}  // namespace atlas::kernels::cpu
