#include "kernels/cpu/row_batches.h"

#include <algorithm>

namespace atlas::kernels::cpu {

int64_t RowBatches::visibility_rows(const Problem& problem, int64_t kv_heads, int64_t tokens) {
    return std::min(kv_heads * problem.group, problem.args.mask.n_heads) * tokens;
}

RowBatches::RowBatches(const Problem& problem, int64_t stream, int64_t kv_head, int64_t kv_heads, int64_t list,
                       int64_t begin, int64_t end, int64_t token0, int64_t tokens, const BlockVisibility** visibility)
    : args_(problem.args),
      list_(problem.runs(stream, kv_head, list)),
      tokens_(tokens),
      visibility_(visibility),
      run_(list_.runs.data()),
      offset_(begin),
      left_(end - begin),
      sight_{args_.mask.data != nullptr, 0, tokens - 1} {
    if (left_ > 0) {
        while (offset_ >= run_->count) offset_ -= run_++->count;
    }
    const Mask& mask = args_.mask;
    if (!mask.data || !mask.summary) return;
    mask_heads_ = visibility_rows(problem, kv_heads, 1);
    const int64_t head0 = kv_head * problem.group;
    for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t h = 0; h < mask_heads_; ++h) {
            const int64_t row =
                ((stream % mask.n_streams) * mask.n_heads + (head0 + h) % mask.n_heads) * args_.n_tokens + token0 + t;
            visibility[t * mask_heads_ + h] = mask.summary + row * mask.summary_blocks;
        }
    }
}

void RowBatches::look_at(int64_t block) {
    block_ = block;
    sight_ = {false, tokens_, -1};
    const BlockVisibility* const* row = visibility_;
    for (int64_t t = 0; t < tokens_; ++t) {
        bool sees = false;
        for (int64_t h = 0; h < mask_heads_; ++h, ++row) {
            const BlockVisibility v = (*row)[block];
            sees |= v != BlockVisibility::kNone;
            sight_.mixed |= v != BlockVisibility::kAll;
        }
        if (!sees) continue;
        sight_.first = std::min(sight_.first, t);
        sight_.last = t;
    }
}

bool RowBatches::next(RowBatch& batch) {
    int64_t n = 0;
    int64_t parts = 0;
    batch.mixed = false;
    batch.first = tokens_;
    batch.last = -1;
    while (n < kBlockKeys && left_ > 0) {
        const int64_t singles = take_singles(batch, n);
        if (singles > 0) {
            n += singles;
            parts += singles;
            continue;
        }
        const Run& run = *run_;
        const int64_t key = run.key + offset_;
        const int64_t block = key / kBlockKeys;
        const int64_t count = std::min({run.count - offset_, left_, (block + 1) * kBlockKeys - key, kBlockKeys - n});
        if (mask_heads_ > 0 && block != block_) look_at(block);
        if (sight_.last >= 0) {
            batch.mixed |= sight_.mixed;
            batch.first = std::min(batch.first, sight_.first);
            batch.last = std::max(batch.last, sight_.last);
            ++parts;
            const std::byte* k = run.k + list_.k_offset + offset_ * args_.k_stride;
            const std::byte* v = run.v + list_.v_offset + offset_ * args_.v_stride;
            for (int64_t j = 0; j < count; ++j, ++n) {
                batch.k[n] = k + j * args_.k_stride;
                batch.v[n] = v + j * args_.v_stride;
                batch.key[n] = static_cast<int32_t>(key + j);
            }
        }
        left_ -= count;
        offset_ += count;
        if (offset_ == run.count) {
            offset_ = 0;
            ++run_;
        }
    }
    batch.even = parts == 1;
    batch.count = static_cast<size_t>(n);
    if (n == 0) return false;
    std::fill(batch.k + n, batch.k + kBlockKeys, batch.k[n - 1]);
    std::fill(batch.v + n, batch.v + kBlockKeys, batch.v[n - 1]);
    return true;
}

int64_t RowBatches::take_singles(RowBatch& batch, int64_t n) {
    // Cells of one block follow each other by chance: where one byte tells what is seen of a block, asking it anew costs less than the branch.
    const BlockVisibility* only_row = mask_heads_ * tokens_ == 1 ? visibility_[0] : nullptr;
    const bool no_mask = args_.mask.data == nullptr;
    const bool clear = !sight_.mixed && sight_.last == tokens_ - 1 && mask_heads_ > 0;
    const int64_t begin = n;
    const int64_t end = std::min<int64_t>(kBlockKeys, n + left_);
    const Run* run = run_;
    for (; n < end && run->count == 1; ++run, ++n) {
        const auto block = static_cast<uint32_t>(run->key) / static_cast<uint32_t>(kBlockKeys);
        if (only_row) {
            if (only_row[block] != BlockVisibility::kAll) break;
        } else if (!no_mask && !(clear && block == block_)) {
            break;
        }
        batch.k[n] = run->k + list_.k_offset;
        batch.v[n] = run->v + list_.v_offset;
        batch.key[n] = run->key;
    }
    run_ = run;
    left_ -= n - begin;
    if (n > begin) {
        batch.first = 0;
        batch.last = tokens_ - 1;
    }
    return n - begin;
}

}  // namespace atlas::kernels::cpu
