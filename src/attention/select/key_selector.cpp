#include "attention/select/key_selector.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

#include "kernels/codes.h"

namespace atlas::attention {
namespace {

constexpr float kNever = std::numeric_limits<float>::infinity();
// Shares below are no attention that a float could show.
constexpr float kNothing = 1e-30f;

}  // namespace

/** No key has more than the heads' largest weights together. */
void KeySelector::find_bounds(const TileScores& scores) {
    const int64_t group = scores.group();
    bounds_.resize(static_cast<size_t>(scores.pages()));
    for (int64_t page = 0; page < scores.pages(); ++page) {
        const float* of_page = scores.most(page);
        float most = 0.0f;
        for (int64_t row = 0; row < scores.rows(); row += group) {
            float of_token = 0.0f;
            for (int64_t h = 0; h < group; ++h) of_token += of_page[row + h] * scores.factors()[row + h];
            most = std::max(most, of_token);
        }
        // Shares may be rounded otherwise.
        bounds_[static_cast<size_t>(page)] = most * 1.001f;
    }
}

/** Finds the shares of the keys of all pages that may hold one of at least `least`. */
void KeySelector::look_at(TileScores& scores, float least) {
    for (int64_t page = 0; page < scores.pages(); ++page) {
        float& bound = bounds_[static_cast<size_t>(page)];
        if (!(bound >= least)) continue;
        bound = 0.0f;  // once
        const size_t at = known_.size() * kernels::kCodeKeys;
        known_.push_back({page, at});
        if (shares_.size() < at + kernels::kCodeKeys) shares_.resize(at + 16 * kernels::kCodeKeys);
        kernels::share_of_keys(scores.weights(page), scores.rows() / scores.group(), scores.group(), scores.factors(),
                               shares_.data() + at);
    }
}

int64_t KeySelector::count_at_least(float share) const {
    int64_t count = 0;
    for (const Known& known : known_)
        count += std::popcount(kernels::keys_at_least(shares_.data() + known.shares, share));
    return count;
}

/** The share of the count-th best key, of those that hold at least `below`: there are as many. */
float KeySelector::least_of(int64_t count, float below) {
    candidates_.clear();
    for (const Known& known : known_) {
        uint64_t cells = kernels::keys_at_least(shares_.data() + known.shares, below);
        for (; cells != 0; cells &= cells - 1)
            candidates_.push_back(shares_[known.shares + static_cast<size_t>(std::countr_zero(cells))]);
    }
    const auto nth = candidates_.begin() + static_cast<std::ptrdiff_t>(count - 1);
    std::nth_element(candidates_.begin(), nth, candidates_.end(), std::greater<>());
    return *nth;
}

void KeySelector::select(TileScores& scores, const FarBudget& budget, std::vector<PageCells>* selected) {
    known_.clear();
    find_bounds(scores);
    float bound = std::max(static_cast<float>(budget.share), kNothing);
    look_at(scores, bound);
    int64_t count = count_at_least(bound);
    if (count > budget.most) {
        bound = budget.most > 0 ? least_of(budget.most, bound) : kNever;
    } else if (count < budget.least) {
        // Down in steps, so that few pages are looked at and few candidates sorted.
        while (count < budget.least && bound > kNothing) {
            bound = std::max(bound / 4.0f, kNothing);
            look_at(scores, bound);
            count = count_at_least(bound);
        }
        if (count > budget.least) bound = least_of(budget.least, bound);
    }
    std::sort(known_.begin(), known_.end(), [](const Known& a, const Known& b) { return a.page < b.page; });
    auto known = known_.begin();
    for (int64_t page = 0; page < scores.pages(); ++page) {
        uint64_t cells = scores.broken(page) ? ~uint64_t{0} : 0;
        if (known != known_.end() && known->page == page)
            cells |= kernels::keys_at_least(shares_.data() + known++->shares, bound);
        if (cells != 0) selected->push_back({scores.page_of(page) * kernels::kCodeKeys, cells});
    }
}

}  // namespace atlas::attention
