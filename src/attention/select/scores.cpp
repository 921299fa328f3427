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

int64_t rounded(int64_t n) { return (n + 15) / 16 * 16; }

}  // namespace

void TileScores::load_queries(const AttentionCall& call) {
    const int64_t d = index_->shape().d;
    for (int64_t row = 0; row < rows_; ++row) {
        const float* q = call.query(view_->stream, view_->token0 + row / group_, head_ * group_ + row % group_);
        float* to = exact_ + row * d;
        for (int64_t i = 0; i < call.args.d_k; ++i) to[i] = q[i] * (call.args.scale * kLog2E);
        std::fill(to + call.args.d_k, to + d, 0.0f);
    }
    kernels::rotate_rows(index_->signs(), rows_, d, exact_);
    codes_.resize(static_cast<size_t>(rows_ * d));
    for (auto* values : {&scale_, &offset_, &squares_, &shift_, &factor_, &near_}) values->resize(static_cast<size_t>(rows_));
    kernels::quantise_queries(exact_, rows_, d, codes_.data(), scale_.data(), offset_.data(), squares_.data());
}

void TileScores::score(const AttentionCall& call, const KeyIndex& index, const TileView& view,
                       int64_t kv_head, const NearPart& near) {
    call_ = &call;
    index_ = &index;
    view_ = &view;
    head_ = kv_head;
    group_ = call.group();
    rows_ = view.tokens * group_;
    const int64_t d = index.shape().d;
    const int64_t n_weights = pages() * rows_ * kernels::kCodeKeys;
    memory_.resize(static_cast<size_t>(n_weights + rounded(rows_ * d) + 32));
    weights_ = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory_.data()) + 63) / 64 * 64);
    exact_ = weights_ + rounded(n_weights);
    sums_.resize(static_cast<size_t>(pages() * rows_));
    parts_.assign(static_cast<size_t>(pages()), -1);
    int64_t part = 0;
    for (int64_t page = 0; page < pages(); ++page) {
        if (view.use[static_cast<size_t>(page_of(page))] != PageUse::kFarPart) continue;
        parts_[static_cast<size_t>(page)] = part;
        part += call.args.mask.data ? view.tokens : 1;
    }
    load_queries(call);
    bool any = false;  // a row that reads nothing near has no unit yet
    for (int64_t row = 0; row < rows_; ++row) {
        const float lse = near.lse[row / group_ * near.token_stride + row % group_];
        near_[static_cast<size_t>(row)] = lse * kLog2E;
        shift_[static_cast<size_t>(row)] = std::isfinite(lse) ? lse * kLog2E : 0.0f;
        any = any || !std::isfinite(lse);
    }
    if (any) {
        // The largest logit, then.
        std::vector<float> most(static_cast<size_t>(rows_), kMinusInfinity);
        for (int64_t page = 0; page < pages(); ++page) {
            score_page(call, page);
            for (int64_t row = 0; row < rows_; ++row) {
                const float* logits = weights(page) + row * kernels::kCodeKeys;
                most[static_cast<size_t>(row)] =
                    std::max(most[static_cast<size_t>(row)], *std::max_element(logits, logits + kernels::kCodeKeys));
            }
        }
        for (size_t row = 0; row < most.size(); ++row) {
            if (!std::isfinite(near_[row]) && std::isfinite(most[row])) shift_[row] = most[row];
        }
    }
    while (!weigh(call)) {
    }
}

/** Weights and sums of all pages; false if a row's unit was too small, and has been raised. */
bool TileScores::weigh(const AttentionCall& call) {
    std::fill(factor_.begin(), factor_.end(), 0.0f);
    const kernels::CodeQueries queries{rows_, codes_.data(), exact_, scale_.data(), offset_.data()};
    for (int64_t page = 0; page < pages(); ++page) {
        float* sums = sums_.data() + page * rows_;
        float* weights = weights_ + page * rows_ * kernels::kCodeKeys;
        if (view_->use[static_cast<size_t>(page_of(page))] == PageUse::kFar && !broken(page) && call.args.softcap <= 0.0f) {
            // Codes of neighbouring pages of one head lie apart: they are on their way before they are waited for.
            const int64_t ahead = page + kPagesAhead;
            kernels::weigh_codes(index_->shape(), queries, codes(page), ahead < pages() ? codes(ahead) : nullptr,
                                 shift_.data(), weights, sums);
        } else {
            score_page(call, page);
            kernels::weigh_scores(weights, rows_, shift_.data(), sums);
        }
        for (int64_t row = 0; row < rows_; ++row) factor_[static_cast<size_t>(row)] += sums[row];
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

void TileScores::score_page(const AttentionCall& call, int64_t page) {
    float* logits = weights_ + page * rows_ * kernels::kCodeKeys;
    if (broken(page)) {
        std::fill_n(logits, rows_ * kernels::kCodeKeys, kMinusInfinity);
        return;
    }
    const kernels::CodeQueries queries{rows_, codes_.data(), exact_, scale_.data(), offset_.data()};
    kernels::score_codes(index_->shape(), queries, codes(page), logits);
    if (call.args.softcap > 0.0f) kernels::cap_scores(logits, rows_ * kernels::kCodeKeys, call.args.softcap * kLog2E);
    hide(call, page);
}

void TileScores::hide(const AttentionCall& call, int64_t page) {
    const int64_t number = page_of(page);
    const PageUse use = view_->use[static_cast<size_t>(number)];
    if (use == PageUse::kFar) return;
    float* logits = weights_ + page * rows_ * kernels::kCodeKeys;
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
            return call_->args.mask.n_heads == 1 ? view_->parts[static_cast<size_t>(parts_[static_cast<size_t>(page)] +
                                                                               (call_->args.mask.data ? token : 0))]
                                            : 0;
    }
}

}  // namespace atlas::attention
