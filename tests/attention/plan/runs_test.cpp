#include "attention/plan/runs.h"

#include <gtest/gtest.h>

#include "fixture.h"

namespace atlas::attention {
namespace {

TEST(PageSet, JoinsNeighboursInAnyOrderOfAdding) {
    PageSet set;
    for (const int64_t page : {200, 63, 64, 5, 6, 5, 127, 128}) set.add(page);
    set.add(1000, 100);
    const auto ranges = set.ranges();
    const std::vector<std::pair<int64_t, int64_t>> expected{{5, 2}, {63, 2}, {127, 2}, {200, 1}, {1000, 100}};
    ASSERT_EQ(ranges.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_EQ(ranges[i].first, expected[i].first);
        EXPECT_EQ(ranges[i].count, expected[i].second);
    }
    set.clear();
    EXPECT_TRUE(set.ranges().empty());
}

TEST(AllKeys, ListsFollowPagesThatComeIntoBeingAndMove) {
    Scene scene(512, 1, 2, 2);
    AllKeys keys;
    const auto expect_all = [&] {
        const kernels::HeadRuns* lists = nullptr;
        ASSERT_TRUE(keys.find(scene.call(), &lists).is_ok());
        for (int64_t head = 0; head < 2; ++head) {
            int64_t next = 0;
            for (const kernels::Run& run : lists[head].runs) {
                ASSERT_EQ(run.key, next);
                for (int64_t i = 0; i < run.count; ++i) {
                    float stored = 0.0f;
                    ASSERT_TRUE(scene.k
                                    .read(static_cast<size_t>(run.key + i) * 128 + static_cast<size_t>(head) * 64,
                                          &stored, sizeof stored)
                                    .is_ok());
                    float listed = 0.0f;
                    std::memcpy(&listed, run.k + lists[head].k_offset + i * 128, sizeof listed);
                    ASSERT_EQ(stored, listed) << head << ' ' << run.key + i;
                }
                next += run.count;
            }
            EXPECT_EQ(next, 512);
        }
        keys.unpin();
    };
    expect_all();
    const kv::PageRange gone{3, 2};
    scene.k.release({&gone, 1});
    expect_all();
    scene.write_row(3 * 64 + 9, 1.0f);
    expect_all();
}

/** A plane per head, as a cache that is not stored cell by cell. */
TEST(AllKeys, HeadsMayLieInPlanes) {
    Scene scene(256, 1, 2, 2);
    AttentionCall call = scene.call();
    call.n_keys = 128;
    call.args.k_stride = call.args.v_stride = call.k.key_stride = call.v.key_stride = 64;
    call.k.head_stride = call.v.head_stride = 128 * 64;
    ASSERT_FALSE(call.in_cells());
    AllKeys keys;
    const kernels::HeadRuns* lists = nullptr;
    ASSERT_TRUE(keys.find(call, &lists).is_ok());
    for (size_t head = 0; head < 2; ++head) {
        for (const kernels::Run& run : lists[head].runs) {
            float stored = 0.0f;
            ASSERT_TRUE(
                scene.v.read(head * 128 * 64 + static_cast<size_t>(run.key) * 64, &stored, sizeof stored).is_ok());
            float listed = 0.0f;
            std::memcpy(&listed, run.v + lists[head].v_offset, sizeof listed);
            EXPECT_EQ(stored, listed);
        }
    }
}

}  // namespace
}  // namespace atlas::attention
