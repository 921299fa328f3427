#include "kernels/cpu/attention/row_batches.h"

#include <algorithm>
#include <bit>

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
      cells_(kAllCells),
      left_(end - begin),
      sight_{args_.mask.data != nullptr, 0, tokens - 1} {
    if (left_ > 0) {
        while (offset_ >= run_->count) offset_ -= run_++->count;
        cells_ = run_->cells;
        if (run_->has_gaps()) {
            for (; offset_ > 0; --offset_) cells_ &= cells_ - 1;
        }
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

void RowBatches::next_run() {
    ++run_;
    offset_ = 0;
    if (left_ > 0) cells_ = run_->cells;
}

bool RowBatches::note_sight(RowBatch& batch, int64_t key) {
    const int64_t block = key / kBlockKeys;
    if (mask_heads_ > 0 && block != block_) look_at(block);
    if (sight_.last < 0) return false;
    batch.mixed |= sight_.mixed;
    batch.first = std::min(batch.first, sight_.first);
    batch.last = std::max(batch.last, sight_.last);
    return true;
}

int64_t RowBatches::take_cells(RowBatch& batch, int64_t n) {
    const Run& run = *run_;
    const int64_t key = run.key + std::countr_zero(cells_);
    const int64_t inside = kBlockKeys - run.key % kBlockKeys;  // cells of the run that lie in the block of its first
    uint64_t wanted = cells_;
    if (inside < kBlockKeys) {
        const uint64_t in_first = (uint64_t{1} << inside) - 1;
        wanted &= key < run.key + inside ? in_first : ~in_first;
    }
    const bool seen = note_sight(batch, key);
    const int64_t room = std::min(left_, seen ? kBlockKeys - n : kBlockKeys);
    const std::byte* k = run.k + list_.k_offset;
    const std::byte* v = run.v + list_.v_offset;
    uint64_t left = wanted;
    int64_t taken = 0;
    for (; left != 0 && taken < room; left &= left - 1, ++taken) {
        if (!seen) continue;
        const int j = std::countr_zero(left);
        batch.k[n] = k + j * args_.k_stride;
        batch.v[n] = v + j * args_.v_stride;
        batch.key[n] = run.key + j;
        ++n;
    }
    left_ -= taken;
    cells_ &= ~wanted | left;
    if (cells_ == 0) next_run();
    return n;
}

bool RowBatches::next(RowBatch& batch) {
    int64_t n = 0;
    int64_t parts = 0;
    batch.mixed = false;
    batch.first = tokens_;
    batch.last = -1;
    while (n < kBlockKeys && left_ > 0) {
        const Run& run = *run_;
        if (run.has_gaps()) {
            n = take_cells(batch, n);
            parts = 2;
            continue;
        }
        const int64_t key = run.key + offset_;
        const int64_t block = key / kBlockKeys;
        const int64_t count = std::min({run.count - offset_, left_, (block + 1) * kBlockKeys - key, kBlockKeys - n});
        if (note_sight(batch, key)) {
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
        if (offset_ == run.count) next_run();
    }
    batch.even = parts == 1;
    batch.count = static_cast<size_t>(n);
    if (n == 0) return false;
    std::fill(batch.k + n, batch.k + kBlockKeys, batch.k[n - 1]);
    std::fill(batch.v + n, batch.v + kBlockKeys, batch.v[n - 1]);
    return true;
}

}  // namespace atlas::kernels::cpu
