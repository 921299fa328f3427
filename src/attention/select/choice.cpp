#include "attention/select/choice.h"

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

int64_t KeyChoice::count_at_least(float share) const {
    int64_t count = 0;
    for (size_t at = 0; at < shares_.size(); at += kernels::kCodeKeys)
        count += std::popcount(kernels::keys_at_least(shares_.data() + at, share));
    return count;
}

/** The share of the count-th best key, of those that hold at least `below`: there are as many. */
float KeyChoice::least_of(int64_t count, float below) {
    candidates_.clear();
    for (size_t at = 0; at < shares_.size(); at += kernels::kCodeKeys) {
        uint64_t cells = kernels::keys_at_least(shares_.data() + at, below);
        for (; cells != 0; cells &= cells - 1)
            candidates_.push_back(shares_[at + static_cast<size_t>(std::countr_zero(cells))]);
    }
    const auto nth = candidates_.begin() + static_cast<std::ptrdiff_t>(count - 1);
    std::nth_element(candidates_.begin(), nth, candidates_.end(), std::greater<>());
    return *nth;
}

void KeyChoice::choose(const TileScores& scores, const FarBudget& budget, std::vector<PageCells>* selected) {
    const int64_t pages = scores.pages();
    shares_.resize(static_cast<size_t>(pages * kernels::kCodeKeys));
    for (int64_t page = 0; page < pages; ++page)
        kernels::share_of_keys(scores.weights(page), scores.rows() / scores.group(), scores.group(), scores.factors(),
                               shares_.data() + page * kernels::kCodeKeys);
    float bound = std::max(static_cast<float>(budget.share), kNothing);
    int64_t count = count_at_least(bound);
    if (count > budget.most) {
        bound = budget.most > 0 ? least_of(budget.most, bound) : kNever;
    } else if (count < budget.least) {
        // Down in steps, so that only few candidates are sorted.
        while (count < budget.least && bound > kNothing) {
            bound = std::max(bound / 8.0f, kNothing);
            count = count_at_least(bound);
        }
        if (count > budget.least) bound = least_of(budget.least, bound);
    }
    for (int64_t page = 0; page < pages; ++page) {
        const uint64_t cells = scores.broken(page)
                                   ? ~uint64_t{0}
                                   : kernels::keys_at_least(shares_.data() + page * kernels::kCodeKeys, bound);
        if (cells != 0) selected->push_back({scores.page_of(page) * kernels::kCodeKeys, cells});
    }
}

}  // namespace atlas::attention
