#pragma once

#include <cstdint>
#include <vector>

#include "attention/index/key_index.h"
#include "attention/plan/visibility.h"
#include "kernels/attention.h"

namespace atlas::attention {

/** Floats at an address divisible by 64; they are lost when it grows. */
class AlignedFloats {
public:
    /** Throws std::bad_alloc. */
    void resize(size_t n) {
        if (memory_.size() < n + 16) memory_ = std::vector<float>(n + 16);
    }
    float* data() { return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory_.data()) + 63) / 64 * 64); }

private:
    std::vector<float> memory_;
};

/** Log-sum-exp (natural) of what each row reads in any case: row (token t, head h of the group) at lse[t·token_stride + h]. */
struct NearPart {
    const float* lse;
    int64_t token_stride;
};

/**
 * How much the keys of a tile's view.selected_from pages weigh for every query of one KV head's group, estimated from the index. Rows are
 * [token of the tile][head of the group]. All pages are scored for their sums; what single keys weigh is kept of few pages, and made again
 * for others when it is asked for: a context's weights are larger than its codes, and most pages hold nothing that could be selected.
 * One per thread, for one (tile, KV head) after the other; its buffers only grow.
 */
class TileScores {
public:
    /**
     * Needs the codes of all these pages to be fresh. Throws std::bad_alloc.
     */
    void score(const AttentionCall& call, const KeyIndex& index, const TileView& view, int64_t kv_head,
               const NearPart& near);

    int64_t rows() const { return rows_; }
    int64_t group() const { return group_; }
    int64_t pages() const { return static_cast<int64_t>(view_->selected_from.size()); }
    const TileView& view() const { return *view_; }
    const KeyIndex& index() const { return *index_; }
    int64_t head() const { return head_; }

    /**
     * Weights of a page (a number into view().selected_from), [row][64]: e^logit / 2^shift(row); 0 where a row does not see the key. They stay where
     * they are until the next score(). Throws std::bad_alloc.
     */
    const float* weights(int64_t page);
    /** Sums over the page's keys, [row]. */
    const float* sums(int64_t page) const { return sums_.data() + page * rows_; }
    /** The largest of the page's, [row]. */
    const float* most(int64_t page) const { return most_.data() + page * rows_; }
    /** Logarithm to base 2 of the unit of a row's weights. */
    float shift(int64_t row) const { return shift_[static_cast<size_t>(row)]; }
    /** One over a row's whole attention, near part included, in units of its weights: weight · factor is a share. [row] */
    const float* factors() const { return factor_.data(); }
    /**
     * What a row's sum over keys of the page, made of estimates, has to be multiplied by to be right on average: e^x is convex, so that
     * unbiased logits make sums too large.
     */
    float trust(int64_t page, int64_t row) const;
    /** |q|² in units of trust's exponent, [row]. */
    const float* squares() const { return squares_.data(); }
    /** Brings near what kernels::add_rest reads of the page. */
    void prefetch_mean(int64_t page) const;
    /** Whether the page's codes say nothing: it has to be read. */
    bool broken(int64_t page) const { return !index_->usable(view_->base_page + page_of(page)); }
    int64_t page_of(int64_t page) const { return view_->selected_from[static_cast<size_t>(page)]; }

    /** Which of the page's keys a token of the tile sees. What of them is not selected may be estimated; 0 where that is not known per KV head. */
    uint64_t cells_of(int64_t page, int64_t token) const;

private:
    const std::byte* codes(int64_t page) const { return index_->codes(view_->base_page + page_of(page), head_); }
    void load_queries(const AttentionCall& call);
    void find_units(const NearPart& near);
    void score_page(int64_t page, float* logits);
    void hide(int64_t page, float* logits);
    void weigh_page(int64_t page, int64_t ahead, float* weights);
    bool weigh();
    float* new_slot();

    const AttentionCall* call_ = nullptr;
    const KeyIndex* index_ = nullptr;
    const TileView* view_ = nullptr;
    int64_t head_ = 0, group_ = 1, rows_ = 0;
    AlignedFloats exact_;         // [row][d], rotated, in units of ln 2
    AlignedFloats page_weights_;  // [row][64], of the page that is being scored, if it is not kept
    std::vector<int8_t> codes_;   // [row][d]
    std::vector<float> scale_, offset_, squares_, shift_, factor_, near_;  // [row]
    std::vector<float> sums_, most_;                                       // [page][row]
    std::vector<int64_t> parts_;        // per page: where its tokens' cells begin in view_->parts, −1: it has none
    std::vector<float*> kept_;          // per page: its weights, or null
    std::vector<AlignedFloats> slots_;  // what is kept, some pages each
    int64_t slot_ = 0;                  // pages kept
};

}  // namespace atlas::attention
