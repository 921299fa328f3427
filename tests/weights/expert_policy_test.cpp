#include "weights/expert_policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <string_view>
#include <vector>

namespace atlas::weights {
namespace {

using Trace = std::vector<std::vector<size_t>>;  // experts of each token

/** The caches of the policy written down anew: by a scan over all. `rank`: what leaves first is smallest. */
template <class Rank>
uint64_t hits_by(const Trace& trace, size_t room, const Rank& rank) {
    std::vector<size_t> there;
    std::map<size_t, std::vector<size_t>> uses;  // times of each expert, ascending
    uint64_t hits = 0;
    size_t time = 0;
    for (const auto& token : trace) {
        for (const size_t expert : token) {
            ++time;
            const auto found = std::find(there.begin(), there.end(), expert);
            if (found != there.end()) {
                ++hits;
            } else {
                if (there.size() >= room)
                    there.erase(std::min_element(there.begin(), there.end(), [&](size_t a, size_t b) {
                        return std::pair(rank(uses[a]), a) < std::pair(rank(uses[b]), b);
                    }));
                there.push_back(expert);
            }
            uses[expert].push_back(time);
        }
    }
    return hits;
}

size_t number_of(std::string_view name) {
    for (size_t i = 0; i < ExpertPolicy::kRates; ++i) {
        if (name == ExpertPolicy::rates()[i].name) return i;
    }
    return ExpertPolicy::kRates;
}

ExpertPolicy run(const Trace& trace, size_t experts, size_t room) {
    ExpertPolicy policy;
    policy.resize(experts, room);
    for (const auto& token : trace) {
        policy.advance(1);
        for (const size_t expert : token) policy.choose(expert, 1);
    }
    return policy;
}

/** Four of `experts` a token, by a distribution that falls, and whose order changes now and then. */
Trace skewed(size_t experts, int tokens, double skew, int change_every) {
    std::mt19937 random(5);
    std::vector<double> weights;
    for (size_t i = 0; i < experts; ++i) weights.push_back(1.0 / std::pow(static_cast<double>(i + 1), skew));
    std::vector<size_t> names(experts);
    for (size_t i = 0; i < experts; ++i) names[i] = i;
    std::discrete_distribution<size_t> choose(weights.begin(), weights.end());
    Trace trace;
    for (int i = 0; i < tokens; ++i) {
        if (change_every > 0 && i % change_every == 0) std::shuffle(names.begin(), names.end(), random);
        std::vector<size_t> token;
        while (token.size() < 4) {
            const size_t expert = names[choose(random)];
            if (std::find(token.begin(), token.end(), expert) == token.end()) token.push_back(expert);
        }
        trace.push_back(token);
    }
    return trace;
}

TEST(ExpertPolicy, ShadowsAreThoseOfTheirNames) {
    const Trace trace = skewed(48, 500, 0.9, 100);
    const ExpertPolicy policy = run(trace, 48, 13);
    EXPECT_EQ(policy.choices(), 2000u);
    EXPECT_EQ(policy.shadow_hits(number_of("lru")), hits_by(trace, 13, [](const auto& uses) { return uses.back(); }));
    EXPECT_EQ(policy.shadow_hits(number_of("lfu")), hits_by(trace, 13, [](const auto& uses) { return uses.size(); }));
    const auto decayed = hits_by(trace, 13, [](const auto& uses) {
        double sum = 0;
        // Times count choices here, of which four are a token.
        for (const size_t time : uses) sum += std::pow(2.0, static_cast<double>((time + 3) / 4) / 16 - 40);
        return sum;
    });
    EXPECT_NEAR(static_cast<double>(policy.shadow_hits(number_of("half_in_16"))), static_cast<double>(decayed), 3);
}

TEST(ExpertPolicy, AScanThatIsLargerThanMemoryIsNoCliff) {
    Trace cycle;
    for (int token = 0; token < 3000; ++token) {
        const auto first = static_cast<size_t>(token % 10) * 4;
        cycle.push_back({first, first + 1, first + 2, first + 3});
    }
    const ExpertPolicy policy = run(cycle, 40, 20);
    EXPECT_EQ(policy.shadow_hits(number_of("lru")), 0u);
    // A subset that stays would find half.
    EXPECT_GT(policy.shadow_hits(policy.followed()), policy.choices() * 4 / 10);
}

TEST(ExpertPolicy, TheBestRateIsFollowed) {
    for (const int change_every : {0, 40}) {
        const Trace trace = skewed(256, 6000, 1.0, change_every);
        const ExpertPolicy policy = run(trace, 256, 64);
        uint64_t best = 0;
        for (size_t i = 0; i < ExpertPolicy::kRates; ++i) best = std::max(best, policy.shadow_hits(i));
        EXPECT_GT(static_cast<double>(policy.shadow_hits(policy.followed())), 0.98 * static_cast<double>(best));
        if (change_every == 0) {
            EXPECT_GE(ExpertPolicy::rates()[policy.followed()].half_life, 64);
        } else {
            EXPECT_LE(ExpertPolicy::rates()[policy.followed()].half_life, 64);
            EXPECT_LT(policy.shadow_hits(number_of("lfu")), best * 9 / 10);
        }
    }
}

/** Belady's by a scan for who is chosen latest; who is never chosen again need not stay. */
TEST(ExpertPolicy, NoneFindsMoreThanWhoKnowsAll) {
    for (const size_t room : {1u, 5u, 13u, 40u}) {
        const Trace trace = skewed(48, 300, 0.8, 60);
        std::vector<size_t> all, there;
        for (const auto& token : trace) all.insert(all.end(), token.begin(), token.end());
        uint64_t hits = 0;
        for (size_t i = 0; i < all.size(); ++i) {
            const auto found = std::find(there.begin(), there.end(), all[i]);
            if (found != there.end()) {
                ++hits;
                continue;
            }
            there.push_back(all[i]);
            if (there.size() <= room) continue;
            const auto again = [&](size_t expert) {
                return std::find(all.begin() + static_cast<ptrdiff_t>(i) + 1, all.end(), expert) - all.begin();
            };
            there.erase(
                std::max_element(there.begin(), there.end(), [&](size_t a, size_t b) { return again(a) < again(b); }));
        }
        const ExpertPolicy policy = run(trace, 48, room);
        EXPECT_EQ(policy.most_hits(), hits) << room;
        for (size_t i = 0; i < ExpertPolicy::kRates; ++i) EXPECT_LE(policy.shadow_hits(i), hits) << i;
    }
}

TEST(ExpertPolicy, RoomMayChange) {
    ExpertPolicy policy;
    policy.resize(8, 0);
    policy.advance(1);
    for (size_t i = 0; i < 8; ++i) policy.choose(i, 1);
    policy.resize(16, 4);
    for (int i = 0; i < 3; ++i) {
        policy.advance(1);
        for (size_t expert = 8; expert < 12; ++expert) policy.choose(expert, 2);
    }
    policy.resize(16, 2);
    for (size_t i = 0; i < ExpertPolicy::kRates; ++i) EXPECT_EQ(policy.shadow_hits(i), 8u) << i;
    for (size_t i = 0; i < 8; ++i) EXPECT_LT(policy.rank(i), policy.rank(8));
}

}  // namespace
}  // namespace atlas::weights
