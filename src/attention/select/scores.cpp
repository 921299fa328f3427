#include "attention/select/scores.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>

#include "kernels/codes.h"

namespace atlas::attention {
namespace {

constexpr float kLog2E = std::numbers::log2e_v<float>;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
// Weights are cut off at 2^100; where a row comes near, its unit is raised by so much and all is weighed again.
constexpr float kTooLarge = 0x1p90f;
constexpr float kRaise = 90.0f;
constexpr int64_t kPagesAhead = 2;
// Floats of weights that are kept at once. Those of single tokens (a MiB, as large as a second-level cache) and of a tile, whose rows look at most pages again
// and are dearer to score than to keep.
constexpr int64_t kKeptFloats = 256 * 1024;
constexpr int64_t kKeptFloatsOfTile = 1024 * 1024;

}  // namespace

void TileScores::load_queries(const AttentionCall& call) {
    const int64_t d = index_->shape().d;
    exact_.resize(static_cast<size_t>(rows_ * d));
    for (int64_t row = 0; row < rows_; ++row) {
        const float* q = call.query(view_->stream, view_->token0 + row / group_, head_ * group_ + row % group_);
        float* to = exact_.data() + row * d;
        for (int64_t i = 0; i < call.args.d_k; ++i) to[i] = q[i] * (call.args.scale * kLog2E);
        std::fill(to + call.args.d_k, to + d, 0.0f);
    }
    kernels::rotate_rows(index_->signs(), rows_, d, exact_.data());
    codes_.resize(static_cast<size_t>(rows_ * d));
    for (auto* values : {&scale_, &offset_, &squares_, &shift_, &factor_, &near_})
        values->resize(static_cast<size_t>(rows_));
    kernels::quantise_queries(exact_.data(), rows_, d, codes_.data(), scale_.data(), offset_.data(), squares_.data());
}

void TileScores::score(const AttentionCall& call, const KeyIndex& index, const TileView& view, int64_t kv_head,
                       const NearPart& near) {
    call_ = &call;
    index_ = &index;
    view_ = &view;
    head_ = kv_head;
    group_ = call.group();
    rows_ = view.tokens * group_;
    page_weights_.resize(static_cast<size_t>(rows_ * kernels::kCodeKeys));
    sums_.resize(static_cast<size_t>(pages() * rows_));
    most_.resize(sums_.size());
    parts_.assign(static_cast<size_t>(pages()), -1);
    int64_t part = 0;
    for (int64_t page = 0; page < pages(); ++page) {
        if (view.use[static_cast<size_t>(page_of(page))] != PageUse::kFarPart) continue;
        parts_[static_cast<size_t>(page)] = part;
        part += call.args.mask.data ? view.tokens : 1;
    }
    load_queries(call);
    find_units(near);
    while (!weigh()) {}
}

/** A row's unit: its attention over what is read in any case, or else its largest logit. */
void TileScores::find_units(const NearPart& near) {
    bool any = false;
    for (int64_t row = 0; row < rows_; ++row) {
        const float lse = near.lse[row / group_ * near.token_stride + row % group_];
        near_[static_cast<size_t>(row)] = lse * kLog2E;
        shift_[static_cast<size_t>(row)] = std::isfinite(lse) ? lse * kLog2E : 0.0f;
        any = any || !std::isfinite(lse);
    }
    if (!any) return;
    std::vector<float> most(static_cast<size_t>(rows_), kMinusInfinity);
    for (int64_t page = 0; page < pages(); ++page) {
        score_page(page, page_weights_.data());
        for (int64_t row = 0; row < rows_; ++row) {
            const float* logits = page_weights_.data() + row * kernels::kCodeKeys;
            most[static_cast<size_t>(row)] =
                std::max(most[static_cast<size_t>(row)], *std::max_element(logits, logits + kernels::kCodeKeys));
        }
    }
    for (size_t row = 0; row < most.size(); ++row) {
        if (!std::isfinite(near_[row]) && std::isfinite(most[row])) shift_[row] = most[row];
    }
}

/** Sums of all pages, and weights of the first ones; false if a row's unit was too small, and has been raised. */
bool TileScores::weigh() {
    kept_.assign(static_cast<size_t>(pages()), nullptr);
    slot_ = 0;
    const int64_t kept = (view_->tokens == 1 ? kKeptFloats : kKeptFloatsOfTile) / (rows_ * kernels::kCodeKeys);
    std::fill(factor_.begin(), factor_.end(), 0.0f);
    for (int64_t page = 0; page < pages(); ++page) {
        float*& weights = kept_[static_cast<size_t>(page)];
        if (page < kept) weights = new_slot();
        weigh_page(page, page + kPagesAhead, weights ? weights : page_weights_.data());
        for (int64_t row = 0; row < rows_; ++row) factor_[static_cast<size_t>(row)] += sums(page)[row];
    }
    bool good = true;
    for (size_t row = 0; row < factor_.size(); ++row) {
        if (factor_[row] > kTooLarge) {
            shift_[row] += kRaise;
            good = false;
            continue;
        }
        const float all = factor_[row] + std::exp2(near_[row] - shift_[row]);
        factor_[row] = all > 0.0f ? 1.0f / all : 0.0f;
    }
    return good;
}

const float* TileScores::weights(int64_t page) {
    float*& weights = kept_[static_cast<size_t>(page)];
    if (weights == nullptr) {
        float* slot = new_slot();
        weigh_page(page, -1, slot);
        weights = slot;
    }
    return weights;
}

/** Room for the weights of one more page. */
float* TileScores::new_slot() {
    const int64_t floats = rows_ * kernels::kCodeKeys;
    const int64_t per_block = std::max<int64_t>(kKeptFloats / floats, 1);
    const auto block = static_cast<size_t>(slot_ / per_block);
    if (slots_.size() <= block) slots_.resize(block + 1);
    slots_[block].resize(static_cast<size_t>(per_block * floats));
    return slots_[block].data() + slot_++ % per_block * floats;
}

/** `ahead`: a page, if there is such a one, that will be weighed soon. */
void TileScores::weigh_page(int64_t page, int64_t ahead, float* weights) {
    float* sums = sums_.data() + page * rows_;
    float* most = most_.data() + page * rows_;
    if (view_->use[static_cast<size_t>(page_of(page))] == PageUse::kFar && !broken(page) &&
        call_->args.softcap <= 0.0f) {
        // Codes of neighbouring pages of one head lie apart: they are on their way before they are waited for.
        const kernels::CodeQueries queries{rows_, codes_.data(), exact_.data(), scale_.data(), offset_.data()};
        kernels::weigh_codes(index_->shape(), queries, codes(page),
                             ahead >= 0 && ahead < pages() ? codes(ahead) : nullptr, shift_.data(), weights, sums,
                             most);
    } else {
        score_page(page, weights);
        kernels::weigh_scores(weights, rows_, shift_.data(), sums, most);
    }
}

void TileScores::score_page(int64_t page, float* logits) {
    if (broken(page)) {
        std::fill_n(logits, rows_ * kernels::kCodeKeys, kMinusInfinity);
        return;
    }
    const kernels::CodeQueries queries{rows_, codes_.data(), exact_.data(), scale_.data(), offset_.data()};
    kernels::score_codes(index_->shape(), queries, codes(page), logits);
    if (call_->args.softcap > 0.0f)
        kernels::cap_scores(logits, rows_ * kernels::kCodeKeys, call_->args.softcap * kLog2E);
    hide(page, logits);
}

/** −inf where a row does not see the key, and what its mask adds. */
void TileScores::hide(int64_t page, float* logits) {
    const AttentionCall& call = *call_;
    const int64_t number = page_of(page);
    const PageUse use = view_->use[static_cast<size_t>(number)];
    if (use == PageUse::kFar) return;
    const int64_t count = std::min<int64_t>(kernels::kCodeKeys, call.n_keys - number * kernels::kCodeKeys);
    for (int64_t row = 0; row < rows_; ++row) {
        float* at = logits + row * kernels::kCodeKeys;
        const int64_t token = view_->token0 + row / group_;
        if (use == PageUse::kFarSome) {
            if (visibility_of(call, view_->stream, token, number) != kernels::BlockVisibility::kAll)
                std::fill_n(at, kernels::kCodeKeys, kMinusInfinity);
            continue;
        }
        std::fill(at + count, at + kernels::kCodeKeys, kMinusInfinity);
        if (!call.args.mask.data) continue;
        const int64_t head = head_ * group_ + row % group_;
        const uint16_t* mask = call.mask_row(view_->stream, token, head) + number * kernels::kCodeKeys;
        const float slope =
            call.args.max_bias > 0.0f ? kernels::alibi_slope(call.args.max_bias, head, call.args.n_head) : 1.0f;
        kernels::add_mask(mask, count, slope * kLog2E, at);
    }
}

float TileScores::trust(int64_t page, int64_t row) const {
    // Of a normal error of variance v in units of ln 2, the mean of 2^error is 2^(v ln 2 / 2).
    return std::exp2(-std::numbers::ln2_v<float> * squares_[static_cast<size_t>(row)] *
                     kernels::noise_of_codes(index_->shape(), codes(page)));
}

void TileScores::prefetch_mean(int64_t page) const {
    const std::byte* of = codes(page);
    for (size_t at = index_->shape().value_mean; at < index_->shape().bytes; at += 64) __builtin_prefetch(of + at);
    __builtin_prefetch(of + index_->shape().factors);
}

uint64_t TileScores::cells_of(int64_t page, int64_t token) const {
    switch (view_->use[static_cast<size_t>(page_of(page))]) {
        case PageUse::kFar:
            return ~uint64_t{0};
        case PageUse::kFarSome:
            return visibility_of(*call_, view_->stream, view_->token0 + token, page_of(page)) ==
                           kernels::BlockVisibility::kAll
                       ? ~uint64_t{0}
                       : 0;
        default:
            // Mask heads may hide different keys.
            return call_->args.mask.n_heads == 1
                       ? view_->parts[static_cast<size_t>(parts_[static_cast<size_t>(page)] +
                                                          (call_->args.mask.data ? token : 0))]
                       : 0;
    }
}

}  // namespace atlas::attention
