#include "runtime/ram_split.h"

#include <gtest/gtest.h>

#include "runtime/ram_shares.h"
#include "weights/streamer.h"

namespace atlas::runtime {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20, kGiB = uint64_t{1} << 30;

RamNeeds needs(uint64_t ram, uint64_t weights, uint64_t kv, uint64_t held = 0, bool disk = false) {
    RamNeeds made;
    made.ram = ram;
    made.weights = weights;
    made.kv = kv;
    made.held = held;
    made.disk = disk;
    return made;
}

TEST(RamSplitTest, WhatFitsFits) {
    const RamSplit split = split_ram(needs(8 * kGiB, 5 * kGiB, 2 * kGiB));
    EXPECT_EQ(split.weights, 6 * kGiB);
    EXPECT_EQ(split.kv, 2 * kGiB);
    EXPECT_EQ(split.kv_limit, 3 * kGiB) << "memories may have what nobody else takes";
    // To the byte: the last one that fits, and one more.
    EXPECT_EQ(split_ram(needs(7 * kGiB, 5 * kGiB, 2 * kGiB)).weights, 5 * kGiB);
    EXPECT_TRUE(needs(7 * kGiB, 5 * kGiB, 2 * kGiB).fit());
    EXPECT_FALSE(needs(7 * kGiB - 1, 5 * kGiB, 2 * kGiB).fit());
    EXPECT_FALSE(needs(7 * kGiB, UINT64_MAX, 2).fit()) << "no sum that overflows";
}

TEST(RamSplitTest, BeforeAnythingIsThereTheCacheMayHaveAll) {
    const RamSplit split = split_ram(needs(kGiB, 0, 0));
    EXPECT_EQ(split.kv_limit, kGiB);
    EXPECT_EQ(split.kv, 0u);
    // 0 would mean no limit.
    EXPECT_EQ(split_ram(needs(kGiB, kGiB, 0)).kv_limit, 1u);
}

TEST(RamSplitTest, AnEmptyCacheLeavesItsMemoryToWeights) {
    // 7.3 of 8 GiB, and a cache of 4: weights stay until the cache has grown.
    const uint64_t weights = 7 * kGiB + 300 * kMiB;
    const RamSplit empty = split_ram(needs(8 * kGiB, weights, 4 * kGiB));
    EXPECT_EQ(empty.kv, kGiB);
    EXPECT_EQ(empty.weights, 7 * kGiB);
    EXPECT_EQ(empty.kv_limit, 8 * kGiB - weights / 32) << "without a disk a cache may have all but the least";
    const RamSplit half = split_ram(needs(8 * kGiB, weights, 4 * kGiB, 2 * kGiB));
    EXPECT_EQ(half.kv, 3 * kGiB);
    EXPECT_EQ(half.weights, 5 * kGiB);
    const RamSplit full = split_ram(needs(8 * kGiB, weights, 4 * kGiB, 4 * kGiB));
    EXPECT_EQ(full.kv, 4 * kGiB) << "nothing ahead of a full cache";
    EXPECT_EQ(full.weights, 4 * kGiB);
}

TEST(RamSplitTest, WithADiskTheCacheHasAQuarter) {
    const RamSplit split = split_ram(needs(8 * kGiB, 20 * kGiB, 40 * kGiB, 8 * kGiB, true));
    EXPECT_EQ(split.kv_limit, 2 * kGiB);
    EXPECT_EQ(split.kv, 2 * kGiB);
    EXPECT_EQ(split.weights, 6 * kGiB);
    // … and what weights leave.
    EXPECT_EQ(split_ram(needs(8 * kGiB, 3 * kGiB, 40 * kGiB, 0, true)).kv_limit, 5 * kGiB);
    EXPECT_EQ(split_ram(needs(8 * kGiB, 6 * kGiB, 40 * kGiB, 0, true)).kv_limit, 2 * kGiB);
    EXPECT_EQ(split_ram(needs(8 * kGiB, 6 * kGiB - 1, 40 * kGiB, 0, true)).kv_limit, 2 * kGiB + 1);
}

TEST(RamSplitTest, IndexesCannotLeaveMemory) {
    RamNeeds sparse = needs(8 * kGiB, 20 * kGiB, 22 * kGiB, 22 * kGiB, true);
    sparse.index = 2 * kGiB;
    EXPECT_EQ(split_ram(sparse).kv_limit, 2 * kGiB + 512 * kMiB);
    sparse.index = 6 * kGiB;
    EXPECT_EQ(split_ram(sparse).kv_limit, 4 * kGiB) << "half at most";
}

TEST(RamSplitTest, WeightsKeepWhatTheyCanBeStreamedWith) {
    // Tiny, small, large, and larger than memory.
    EXPECT_EQ(split_ram(needs(4 * kMiB, 11 * kMiB, 64 * kMiB, 64 * kMiB)).weights, weights::kLeastWeightsRam);
    EXPECT_EQ(split_ram(needs(4 * kMiB, kMiB, 64 * kMiB, 64 * kMiB)).weights, kMiB) << "no more than there are";
    EXPECT_EQ(split_ram(needs(8 * kGiB, 32 * kGiB, 64 * kGiB, 64 * kGiB)).weights, kGiB);
    EXPECT_EQ(split_ram(needs(8 * kGiB, 640 * kGiB, 64 * kGiB, 64 * kGiB)).weights, 2 * kGiB) << "a quarter at most";
}

TEST(RamSplitTest, AlwaysAddsUp) {
    for (const bool disk : {false, true}) {
        for (uint64_t ram = kLeastRam; ram <= 2 * kGiB; ram = ram * 3 / 2 + 1) {
            for (uint64_t weights = 0; weights <= 4 * kGiB; weights = weights * 5 / 2 + kMiB / 3) {
                for (uint64_t kv = 0; kv <= 4 * kGiB; kv = kv * 5 / 2 + kMiB / 5) {
                    for (const uint64_t held : {uint64_t{0}, kv / 3, kv, kv + 5 * kMiB}) {
                        RamNeeds now = needs(ram, weights, kv, held, disk);
                        now.index = kv / 11;
                        const RamSplit split = split_ram(now);
                        ASSERT_EQ(split.weights + split.kv, ram) << ram << ' ' << weights << ' ' << kv << ' ' << held;
                        ASSERT_GE(split.kv_limit, 1u);
                        ASSERT_TRUE(now.fit() || split.kv <= split.kv_limit);
                        ASSERT_GE(split.weights, std::min(weights, weights::kLeastWeightsRam)) << ram << ' ' << weights;
                        ASSERT_TRUE(!now.fit() || (split.weights >= weights && split.kv_limit >= kv));
                        // What was just split has room for a while: no split for each graph.
                        ASSERT_TRUE(has_room(split, now)) << ram << ' ' << weights << ' ' << kv << ' ' << held;
                    }
                }
            }
        }
    }
}

TEST(RamSplitTest, GrowsInFewSteps) {
    RamNeeds now = needs(kGiB, kGiB, kGiB / 2);
    RamSplit last = split_ram(now);
    int splits = 1;
    for (; now.held < now.kv; now.held += 3 * kMiB) {
        now.writes = 3 * kMiB;
        if (has_room(last, now)) {
            ASSERT_LE(now.held + now.writes, last.kv + 3 * kMiB);
            continue;
        }
        const RamSplit next = split_ram(now);
        ASSERT_GT(next.kv, last.kv) << "a split for nothing, at " << now.held;
        last = next;
        ++splits;
    }
    EXPECT_EQ(last.kv, now.kv);
    EXPECT_GT(splits, 3);
    EXPECT_LE(splits, 8);
}

TEST(RamSplitTest, WritesOverAFullCacheNeedNothing) {
    RamNeeds now = needs(kGiB, kGiB, kGiB / 2, kGiB / 2);
    const RamSplit last = split_ram(now);
    now.writes = 100 * kMiB;
    EXPECT_TRUE(has_room(last, now));
    EXPECT_EQ(split_ram(now), last);
    // A batch that does not fit beside what is there is seen before it is written.
    now.held = kGiB / 4;
    now.writes = 120 * kMiB;
    const RamSplit before = split_ram(needs(kGiB, kGiB, kGiB / 2, kGiB / 4));
    EXPECT_FALSE(has_room(before, now));
    EXPECT_GE(split_ram(now).kv, now.held + now.writes);
}

TEST(RamSplitTest, SaysHowAndWhatComesOfIt) {
    const auto said = [](const RamNeeds& now, const char* ram) { return words_of(split_ram(now), now, ram); };
    EXPECT_EQ(said(needs(8 * kGiB, 5 * kGiB, 512 * kMiB), "8G"),
              "ATLAS_RAM=8G: weights 5.0 GiB of 5.0 GiB, KV cache 512.0 MiB of 512.0 MiB");
    EXPECT_EQ(said(needs(8 * kGiB, 7 * kGiB + 300 * kMiB, 4 * kGiB), "8G"),
              "ATLAS_RAM=8G: weights 7.0 GiB of 7.3 GiB, KV cache 1.0 GiB of 4.0 GiB, up to 4.0 GiB as it grows and "
              "weights give way; the other weights are read from their file for each batch");
    EXPECT_EQ(said(needs(8 * kGiB, 6 * kGiB, 3 * kGiB), "8G"),
              "ATLAS_RAM=8G: weights 6.0 GiB of 6.0 GiB, KV cache 1.0 GiB of 3.0 GiB, up to 3.0 GiB as it grows and "
              "weights give way");
    EXPECT_EQ(said(needs(8 * kGiB, 20 * kGiB, 4 * kGiB, 4 * kGiB, true), "8G"),
              "ATLAS_RAM=8G: weights 6.0 GiB of 20.0 GiB, KV cache 2.0 GiB of 4.0 GiB; the other weights are read from "
              "their file for each batch; the rest of the KV cache goes to ATLAS_KV_DISK");
    EXPECT_EQ(said(needs(kGiB, 0, 4 * kGiB, kGiB), "1G"),
              "ATLAS_RAM=1G: weights 0.0 MiB of 0.0 MiB, KV cache 1.0 GiB of 4.0 GiB; a context that needs more fails "
              "a decode (ATLAS_KV_DISK, or a smaller -c)");
}

class RamSharesTest : public ::testing::Test {
protected:
    void SetUp() override { ASSERT_TRUE(weights::Streamer::open({8 * kMiB, {}}, &streamer_).is_ok()); }
    RamShares shares(bool indexed = false) { return {8 * kMiB, "8M", indexed, {budget_, pools_, nullptr, *streamer_}}; }

    kv::Budget budget_{8 * kMiB, "ATLAS_RAM's share for the KV cache"};
    const std::unique_ptr<kv::Pager> no_pager_;
    Pools pools_{budget_, no_pager_};
    std::unique_ptr<weights::Streamer> streamer_;
};

TEST_F(RamSharesTest, FollowsWhatCachesAskForAndHold) {
    RamShares shares = this->shares();
    shares.settle(0);
    EXPECT_EQ(streamer_->ram(), 8 * kMiB);
    {
        const kv::Claim cache(budget_, 3 * kMiB, kMiB);
        shares.settle(0);
        EXPECT_EQ(streamer_->ram(), 5 * kMiB) << "without an index";
        EXPECT_EQ(budget_.limit(), 8 * kMiB) << "no weights";
        EXPECT_EQ(shares.state().splits, 2u);
        shares.settle(kMiB);
        EXPECT_EQ(shares.state().splits, 2u) << "nothing has changed";
    }
    shares.settle(0);
    EXPECT_EQ(streamer_->ram(), 8 * kMiB) << "the cache has ended";
    const kv::Claim large(budget_, 64 * kMiB, 0);
    shares.settle(kMiB / 4);
    EXPECT_EQ(streamer_->ram(), 7 * kMiB);
    ASSERT_TRUE(budget_.reserve(3 * kMiB));
    shares.settle(kMiB / 4);
    EXPECT_EQ(streamer_->ram(), 4 * kMiB);
    budget_.release(3 * kMiB);
    shares.settle(kMiB / 4);
    EXPECT_EQ(streamer_->ram(), 4 * kMiB) << "pages are used again, and the system has not got their memory";
    EXPECT_EQ(
        shares.json(),
        "{\"limit\": 8388608, \"weights\": 4194304, \"weights_needed\": 0, \"kv\": 4194304, \"kv_limit\": 8388608, "
        "\"kv_needed\": 67108864, \"splits\": 5}");
}

TEST_F(RamSharesTest, CountsIndexesWhereThereWillBeSome) {
    RamShares shares = this->shares(true);
    const kv::Claim cache(budget_, 3 * kMiB, kMiB);
    shares.settle(0);
    EXPECT_EQ(streamer_->ram(), 4 * kMiB);
}

TEST_F(RamSharesTest, TheProgramsOwnPoolsStayBelow) {
    RamShares shares = this->shares();
    int owner = 0;
    ASSERT_TRUE(pools_.set(&owner, kMiB).is_ok());
    shares.settle(0);
    EXPECT_EQ(budget_.limit(), kMiB);
    pools_.remove(&owner);
    EXPECT_EQ(budget_.limit(), 8 * kMiB);
}

}  // namespace
}  // namespace atlas::runtime
