#include "weights/expert_policy.h"

#include <cmath>
#include <limits>

namespace atlas::weights {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();
constexpr double kNever = -kInfinite;
// Choices from one comparison of the shadow caches to the next, and what of their hits is remembered then.
constexpr uint64_t kReview = 2048;
constexpr double kRemembered = 0.75;
// What another rate has to be better by: ranks are sorted anew for it.
constexpr double kBetter = 1.01;

double log_of_sum(double a, double b) {
    const double most = std::max(a, b), least = std::min(a, b);
    return least == kNever ? most : most + std::log1p(std::exp(least - most));
}

}  // namespace

const std::array<ExpertPolicy::Rate, ExpertPolicy::kRates>& ExpertPolicy::rates() {
    static const std::array<Rate, kRates> rates = {{{"lru", 0},
                                                    {"half_in_4", 4},
                                                    {"half_in_16", 16},
                                                    {"half_in_64", 64},
                                                    {"half_in_512", 512},
                                                    {"lfu", kInfinite},
                                                    {"fixed", -1}}};
    return rates;
}

void ExpertPolicy::resize(size_t experts, size_t room) {
    room_ = room;
    for (auto& ranks : ranks_) ranks.resize(experts, kNever);
    for (Shadow& shadow : shadows_) {
        shadow.has.resize(experts, false);
        while (shadow.there.size() > room_) {
            shadow.has[shadow.there.begin()->second] = false;
            shadow.there.erase(shadow.there.begin());
        }
    }
}

void ExpertPolicy::choose(size_t expert, double times) {
    ++choices_;
    for (size_t i = 0; i < kRates; ++i) {
        const double half_life = rates()[i].half_life;
        double& rank = ranks_[i][expert];
        // Σ times · 2^((then − now) / half life): its logarithm, without the part of now, which is everybody's.
        const double next = half_life == 0   ? ++sequence_
                            : half_life > 0  ? log_of_sum(rank, std::log(times) + std::log(2.0) * now_ / half_life)
                            : rank == kNever ? -sequence_
                                             : rank;
        Shadow& shadow = shadows_[i];
        if (shadow.has[expert]) {
            ++shadow.hits;
            ++shadow.lately;
            shadow.there.erase({rank, expert});
        }
        rank = next;
        if (room_ == 0) continue;
        // As the cache itself: what was read stays, whatever its rank, and is the first to leave if that is low.
        if (!shadow.has[expert] && shadow.there.size() >= room_) {
            shadow.has[shadow.there.begin()->second] = false;
            shadow.there.erase(shadow.there.begin());
        }
        shadow.has[expert] = true;
        shadow.there.emplace(rank, expert);
    }
    if (choices_ % kReview == 0) follow_best();
}

void ExpertPolicy::follow_best() {
    size_t best = followed_;
    for (size_t i = 0; i < kRates; ++i) {
        const double needed = best == followed_ ? kBetter : 1.0;
        if (shadows_[i].lately > shadows_[best].lately * needed) best = i;
    }
    followed_ = best;
    for (Shadow& shadow : shadows_) shadow.lately *= kRemembered;
}

}  // namespace atlas::weights
