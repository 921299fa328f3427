#include "base/parallel.h"

#include <chrono>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <new>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

namespace atlas {
namespace {

constexpr int64_t kSizes[] = {0, 1, 2, 3, 7, 8, 1000};

TEST(Parallel, EveryIterationRunsOnceOnAThreadOfItsOwnNumber) {
    for (const Schedule schedule : {Schedule::kStatic, Schedule::kDynamic}) {
        for (int threads = 0; threads <= 5; ++threads) {
            for (const int64_t n : kSizes) {
                std::vector<int> calls(static_cast<size_t>(n));
                std::vector<std::atomic<int>> busy(5);
                std::atomic<bool> shared{false};
                parallel_for(n, threads, schedule, [&](int64_t i, int thread) {
                    ASSERT_LT(thread, std::max(threads, 1));
                    shared = shared || busy[static_cast<size_t>(thread)]++ != 0;
                    ++calls[static_cast<size_t>(i)];
                    --busy[static_cast<size_t>(thread)];
                });
                EXPECT_EQ(calls, std::vector<int>(static_cast<size_t>(n), 1)) << n << " on " << threads;
                EXPECT_FALSE(shared);
            }
        }
    }
}

TEST(Parallel, SharesOfAStaticLoopAreContiguousAndEven) {
    std::vector<int> by(11);
    parallel_for(11, 3, Schedule::kStatic, [&](int64_t i, int thread) { by[static_cast<size_t>(i)] = thread; });
    EXPECT_EQ(by, (std::vector<int>{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2}));
}

TEST(Parallel, OneIterationOrOneThreadStaysOnTheCaller) {
    const std::thread::id caller = std::this_thread::get_id();
    for (const auto& [n, threads] : {std::pair{1, 4}, {100, 1}, {100, 0}, {100, -3}}) {
        parallel_for(n, threads, Schedule::kDynamic, [&](int64_t) { EXPECT_EQ(std::this_thread::get_id(), caller); });
    }
}

TEST(Parallel, AnExceptionComesBackToTheCallerAndEndsTheLoop) {
    for (const Schedule schedule : {Schedule::kStatic, Schedule::kDynamic}) {
        for (const int threads : {1, 2, 4}) {
            std::atomic<int64_t> calls{0};
            const auto run = [&] {
                parallel_for(100000, threads, schedule, [&](int64_t) {
                    ++calls;
                    throw std::bad_alloc();
                });
            };
            EXPECT_THROW(run(), std::bad_alloc);
            EXPECT_LE(calls, threads);
        }
    }
    EXPECT_THROW(parallel_for(10, 3, Schedule::kDynamic,
                              [](int64_t i) {
                                  if (i == 7) throw std::runtime_error("seven");
                              }),
                 std::runtime_error);
}

TEST(Parallel, ALoopSeesAllThatTheOneBeforeItWrote) {
    for (int round = 0; round < 50; ++round) {
        std::vector<int64_t> values(257), sums(257);
        parallel_loops(3, Loop{257, Schedule::kDynamic, [&](int64_t i) { values[static_cast<size_t>(i)] = i; }},
                       Loop{257, Schedule::kStatic,
                            [&](int64_t i) {
                                sums[static_cast<size_t>(i)] =
                                    std::accumulate(values.begin(), values.end(), int64_t{0});
                            }},
                       Loop{1, Schedule::kDynamic, [&](int64_t) { values[0] = sums[256]; }});
        EXPECT_EQ(sums, std::vector<int64_t>(257, 256 * 257 / 2));
        EXPECT_EQ(values[0], 256 * 257 / 2);
    }
}

TEST(Parallel, ALoopAfterOneThatThrewIsNotBegun) {
    for (const int threads : {1, 3}) {
        std::atomic<bool> begun{false};
        const auto run = [&] {
            parallel_loops(threads,
                           Loop{5, Schedule::kDynamic,
                                [](int64_t i) {
                                    if (i == 2) throw std::bad_alloc();
                                }},
                           Loop{5, Schedule::kStatic, [&](int64_t) { begun = true; }},
                           Loop{5, Schedule::kDynamic, [&](int64_t) { begun = true; }});
        };
        EXPECT_THROW(run(), std::bad_alloc);
        EXPECT_FALSE(begun);
    }
}

TEST(Parallel, ALoopInALoopCountsItsOwnThreads) {
    std::atomic<int> calls{0};
    parallel_for(4, 4, Schedule::kStatic, [&](int64_t) {
        for (const int threads : {1, 2}) {
            parallel_for(10, threads, Schedule::kDynamic, [&](int64_t, int thread) {
                EXPECT_LT(thread, threads);
                ++calls;
            });
        }
    });
    EXPECT_EQ(calls, 4 * 2 * 10);
}

TEST(Parallel, SumsDependOnTheNumberOfThreadsAlone) {
    const auto add = [](int64_t i, double& sum) { sum += 1.0 / static_cast<double>(i + 1); };
    EXPECT_EQ(parallel_sum<double>(0, 3, add), 0.0);
    EXPECT_EQ(parallel_sum<double>(1, 3, add), 1.0);
    const double first = parallel_sum<double>(10007, 3, add);
    EXPECT_NEAR(first, 9.7881, 1e-3);
    for (int round = 0; round < 20; ++round) EXPECT_EQ(parallel_sum<double>(10007, 3, add), first);
}

TEST(Parallel, CountsProcessors) {
    EXPECT_GE(max_threads(), 1);
    EXPECT_GE(processor_count(), 1);
}

TEST(Parallel, ATeamRunsLoopsLikeRegions) {
    for (const int threads : {1, 2, 3, 5}) {
        const auto caller = std::this_thread::get_id();
        with_team(threads, [&] {
            EXPECT_EQ(std::this_thread::get_id(), caller);
            for (int round = 0; round < 200; ++round) {
                std::vector<int> first(37), second(37);
                std::atomic<int> most{0};
                parallel_loops(
                    threads,
                    Loop{37, Schedule::kDynamic,
                         [&](int64_t i, int thread) {
                             first[static_cast<size_t>(i)] = static_cast<int>(i) + round;
                             int seen = most;
                             while (thread > seen && !most.compare_exchange_weak(seen, thread)) {}
                         }},
                    // Each reads what another thread has most likely written: it began when the first loop was done.
                    Loop{37, Schedule::kStatic,
                         [&](int64_t i) { second[static_cast<size_t>(i)] = first[static_cast<size_t>(36 - i)]; }});
                for (int i = 0; i < 37; ++i) ASSERT_EQ(second[static_cast<size_t>(i)], 36 - i + round);
                ASSERT_LT(most, threads);
            }
        });
    }
}

TEST(Parallel, FewerThreadsThanTheTeamHas) {
    with_team(4, [&] {
        for (const int threads : {1, 2, 3, 4, 9}) {
            std::atomic<int> done{0}, beyond{0};
            parallel_loops(threads,
                           Loop{50, Schedule::kStatic,
                                [&](int64_t, int thread) {
                                    ++done;
                                    if (thread >= std::min(threads, 4)) ++beyond;
                                }},
                           Loop{50, Schedule::kDynamic, [&](int64_t) { ++done; }});
            EXPECT_EQ(done, 100) << threads;
            EXPECT_EQ(beyond, 0) << threads;
        }
    });
}

TEST(Parallel, LoopsAndTeamsWithinALoopOfATeamRunOnItsThread) {
    with_team(3, [&] {
        parallel_for(6, 3, Schedule::kDynamic, [&](int64_t) {
            const auto me = std::this_thread::get_id();
            with_team(3, [&] {
                parallel_for(5, 3, Schedule::kStatic, [&](int64_t, int thread) {
                    EXPECT_EQ(std::this_thread::get_id(), me);
                    EXPECT_EQ(thread, 0);
                });
            });
        });
    });
}

TEST(Parallel, ATeamOutlivesWhatItsLoopsThrowAndEndsWithWhatItsWorkThrows) {
    int after = 0;
    EXPECT_THROW(with_team(3,
                           [&] {
                               EXPECT_THROW(parallel_for(9, 3, Schedule::kDynamic,
                                                         [](int64_t i) {
                                                             if (i == 4) throw std::runtime_error("four");
                                                         }),
                                            std::runtime_error);
                               parallel_for(1, 3, Schedule::kStatic, [&](int64_t) { ++after; });
                               throw std::bad_alloc();
                           }),
                 std::bad_alloc);
    EXPECT_EQ(after, 1);
    std::atomic<int> done{0};
    parallel_for(8, 3, Schedule::kStatic, [&](int64_t) { ++done; });
    EXPECT_EQ(done, 8);
}

/** Longer than the others stay awake. */
TEST(Parallel, ATeamThatFellAsleepWakes) {
    with_team(2, [&] {
        for (int i = 0; i < 3; ++i) {
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
            std::atomic<int> done{0};
            parallel_for(2, 2, Schedule::kStatic, [&](int64_t) { ++done; });
            EXPECT_EQ(done, 2);
        }
    });
}

}  // namespace
}  // namespace atlas
