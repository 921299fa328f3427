#include "base/per_thread.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <type_traits>
#include <vector>

namespace atlas {
namespace {

std::atomic<int> g_alive{0};

struct Counted {
    Counted() { ++g_alive; }
    ~Counted() { --g_alive; }
    int value = 0;
};

thread_local PerThread<Counted> t_first, t_second;

// A destructor would be registered with the C library when a thread first comes by, and without memory for that the process ends.
static_assert(std::is_trivially_destructible_v<PerThread<std::vector<float>>>);

TEST(PerThreadTest, EachThreadHasItsOwnAndItEndsWithTheThread) {
    const int before = g_alive;
    std::vector<std::thread> threads;
    std::atomic<int> wrong{0}, arrived{0};
    for (int i = 1; i <= 4; ++i) {
        threads.emplace_back([i, &wrong, &arrived] {
            t_first.get().value = i;
            if (i % 2) t_second.get().value = -i;
            ++arrived;
            while (arrived < 4) std::this_thread::yield();
            wrong += t_first.get().value != i;
            wrong += t_second.get().value != (i % 2 ? -i : 0);
        });
    }
    while (arrived < 4) std::this_thread::yield();
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(g_alive, before);
}

TEST(PerThreadTest, MadeOnceByTheFirstCall) {
    std::thread([] {
        const int before = g_alive;
        Counted* first = &t_first.get();
        EXPECT_EQ(g_alive, before + 1);
        EXPECT_EQ(&t_first.get(), first);
        EXPECT_EQ(g_alive, before + 1);
    }).join();
}

struct Refuses {
    Refuses() { throw 7; }
};

TEST(PerThreadTest, AConstructorThatThrowsIsAskedAgain) {
    static thread_local PerThread<Refuses> t_refuses;
    EXPECT_THROW(t_refuses.get(), int);
    EXPECT_THROW(t_refuses.get(), int);
}

}  // namespace
}  // namespace atlas
