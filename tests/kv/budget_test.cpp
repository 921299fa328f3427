#include "kv/budget.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace atlas::kv {
namespace {

TEST(Budget, TakesUpToItsLimitAndNamesIt) {
    Budget budget(100, "ROOM");
    EXPECT_TRUE(budget.reserve(60));
    EXPECT_FALSE(budget.reserve(41));
    EXPECT_FALSE(budget.reserve(UINT64_MAX));
    EXPECT_TRUE(budget.reserve(40));
    EXPECT_EQ(budget.in_use(), 100u);
    EXPECT_EQ(budget.to_string(), "100 bytes of the budget ROOM=100 are in use");
    budget.release(1);
    EXPECT_TRUE(budget.reserve(1));
    budget.set_limit(50);  // takes nothing away
    EXPECT_FALSE(budget.reserve(0));
    budget.release(100);
    EXPECT_TRUE(budget.reserve(50));
}

TEST(Budget, WithoutALimitCountsOnly) {
    Budget budget;
    EXPECT_TRUE(budget.reserve(uint64_t{1} << 60));
    EXPECT_EQ(budget.in_use(), uint64_t{1} << 60);
}

TEST(Budget, ThreadsTogetherNeverExceedIt) {
    Budget budget(7);
    std::vector<std::thread> threads;
    std::atomic<bool> exceeded{false};
    for (int t = 0; t < 4; ++t) {
        threads.emplace_back([&] {
            for (int i = 0; i < 20000; ++i) {
                if (!budget.reserve(2)) continue;
                exceeded = exceeded || budget.in_use() > 7;
                budget.release(2);
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_FALSE(exceeded);
    EXPECT_EQ(budget.in_use(), 0u);
}

}  // namespace
}  // namespace atlas::kv
