#include "weights/expert_policy.h"

#include <algorithm>
#include <cmath>
#include <iterator>
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

// Choices that are kept, 1 MB of them.
constexpr size_t kMostTrace = size_t{1} << 18;

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
    if (trace_.size() < kMostTrace) trace_.push_back(static_cast<uint32_t>(expert));
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

uint64_t ExpertPolicy::most_hits() const {
    if (choices_ > trace_.size() || room_ == 0) return 0;
    std::vector<size_t> next(trace_.size()), seen(ranks_[0].size(), trace_.size());
    for (size_t i = trace_.size(); i-- > 0;) next[i] = std::exchange(seen[trace_[i]], i);
    std::vector<size_t> due(seen.size());  // when an expert that is there is chosen again
    std::vector<bool> has(seen.size(), false);
    std::set<std::pair<size_t, size_t>> there;  // by that
    uint64_t hits = 0;
    for (size_t i = 0; i < trace_.size(); ++i) {
        const size_t expert = trace_[i];
        if (has[expert]) {
            ++hits;
            there.erase({due[expert], expert});
        }
        has[expert] = true;
        due[expert] = next[i];
        there.emplace(next[i], expert);
        if (there.size() <= room_) continue;
        const auto last = std::prev(there.end());
        has[last->second] = false;
        there.erase(last);
    }
    return hits;
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
