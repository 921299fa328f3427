#include "io/disk_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <thread>
#include <utility>

#include "io/faulty_io.h"
#include "scratch_file.h"

namespace atlas::io {
namespace {

/** A device that serves nothing by itself, and tells what it was given. */
class Device final : public BlockIo {
public:
    explicit Device(std::vector<IoRequest*>* given) : given_(*given) {}
    void submit(std::span<IoRequest* const> requests) override {
        given_.insert(given_.end(), requests.begin(), requests.end());
        under_way_.insert(under_way_.end(), requests.begin(), requests.end());
    }
    void reap(bool wait, std::vector<IoRequest*>* out) override {
        EXPECT_TRUE(!wait || !under_way_.empty()) << "this would wait for ever";
        if (under_way_.empty()) return;
        out->push_back(under_way_.front());
        under_way_.pop_front();
    }
    int grow(uint64_t /*from*/, uint64_t /*bytes*/) override { return 0; }

private:
    std::vector<IoRequest*>& given_;
    std::deque<IoRequest*> under_way_;
};

class DiskQueueTest : public ::testing::Test {
protected:
    std::unique_ptr<BlockIo> layer() { return DiskQueue::share(queue_, std::make_unique<Device>(&given_)); }
    static std::vector<IoRequest> requests(Urgency urgency, size_t count) {
        IoRequest request;
        request.urgency = urgency;
        return std::vector<IoRequest>(count, request);
    }
    static void submit(BlockIo& io, std::vector<IoRequest>& requests) {
        std::vector<IoRequest*> pointers;
        for (IoRequest& request : requests) pointers.push_back(&request);
        io.submit(pointers);
    }
    size_t given(Urgency urgency) const {
        return static_cast<size_t>(
            std::count_if(given_.begin(), given_.end(), [&](const IoRequest* one) { return one->urgency == urgency; }));
    }
    /** Takes transfers one by one as they end, waiting for each. */
    static void finish(BlockIo& io, size_t count) {
        std::vector<IoRequest*> done;
        while (done.size() < count) io.reap(true, &done);
        EXPECT_EQ(done.size(), count);
    }

    std::shared_ptr<DiskQueue> queue_ = std::make_shared<DiskQueue>();
    std::vector<IoRequest*> given_;  // to devices, in this order
};

TEST_F(DiskQueueTest, AloneAllIsStartedAtOnce) {
    for (const Urgency urgency : {Urgency::kNow, Urgency::kSoon, Urgency::kLater}) {
        given_.clear();
        const auto io = layer();
        auto some = requests(urgency, 50);
        submit(*io, some);
        EXPECT_EQ(given_.size(), 50u);
        finish(*io, 50);
        EXPECT_EQ(queue_->under_way(urgency), 0);
    }
}

TEST_F(DiskQueueTest, WhatAThreadWaitsForComesBeforeReadsAheadAndTheseBeforeWrites) {
    const auto kv = layer(), weights = layer();
    auto demand = requests(Urgency::kNow, 20), ahead = requests(Urgency::kSoon, 8), behind = requests(Urgency::kLater, 30);
    submit(*kv, demand);
    submit(*weights, ahead);
    submit(*kv, behind);
    EXPECT_EQ(given(Urgency::kNow), 20u);
    EXPECT_EQ(given(Urgency::kSoon), static_cast<size_t>(DiskQueue::kBeside));
    EXPECT_EQ(given(Urgency::kLater), static_cast<size_t>(DiskQueue::kBeside));
    // As long as anybody waits no more of the others is under way at a time.
    finish(*weights, 3);
    EXPECT_EQ(given(Urgency::kSoon), static_cast<size_t>(DiskQueue::kBeside) + 3);
    finish(*kv, 20);
    // Writes are still behind what the other layer reads ahead.
    EXPECT_EQ(queue_->under_way(Urgency::kLater), DiskQueue::kBeside);
    finish(*weights, 5);
    finish(*kv, 30);
    for (size_t i = 0; i + 1 < behind.size(); ++i) {
        const auto at = [&](size_t which) { return std::find(given_.begin(), given_.end(), &behind[which]); };
        EXPECT_LT(at(i), at(i + 1)) << "writes keep their order";
    }
}

TEST_F(DiskQueueTest, ReadsAheadGoOnAtFullDepthOnceNobodyWaits) {
    const auto kv = layer(), weights = layer();
    auto demand = requests(Urgency::kNow, 1), ahead = requests(Urgency::kSoon, 8);
    submit(*kv, demand);
    submit(*weights, ahead);
    finish(*kv, 1);
    finish(*weights, 1);  // the next call of its layer
    EXPECT_EQ(given(Urgency::kSoon), 8u);
}

TEST_F(DiskQueueTest, ALayerThatEndsIsWaitedForNoMore) {
    auto ahead = requests(Urgency::kSoon, 8), demand = requests(Urgency::kNow, 4);
    {
        const auto kv = layer();
        submit(*kv, demand);
    }
    const auto weights = layer();
    submit(*weights, ahead);
    EXPECT_EQ(given(Urgency::kSoon), 8u);
}

/** Two threads with layers of their own on one file, one of which reads what the other does not wait for, under faults: each gets its own bytes, or an error. */
TEST_F(DiskQueueTest, LayersDoNotDisturbEachOthersBytes) {
    constexpr int kBlocks = 64, kRounds = 60;
    const ScratchFile file;
    {
        const auto plain = make_plain_io(file.fd());
        for (int i = 0; i < kBlocks; ++i) {
            const Block block(i);
            std::vector<IoRequest> write = {block.write(static_cast<uint64_t>(i) * kIoAlignment)};
            ASSERT_EQ(transfer(*plain, write), 1u);
        }
    }
    const auto read_all = [&](Urgency urgency, const char* faults, int* good) {
        Faults parsed;
        ASSERT_TRUE(parse_faults(faults, &parsed).is_ok());
        std::unique_ptr<BlockIo> io = make_uring_io(file.fd());
        if (!io) io = make_plain_io(file.fd());
        io = DiskQueue::share(queue_, make_faulty_io(std::move(io), parsed));
        for (int round = 0; round < kRounds; ++round) {
            std::vector<Block> blocks;
            std::vector<IoRequest> reads;
            for (int i = 0; i < kBlocks; ++i) {
                blocks.emplace_back(0xEE);
                reads.push_back(blocks.back().read(static_cast<uint64_t>(i) * kIoAlignment));
                reads.back().urgency = urgency;
            }
            ASSERT_EQ(transfer(*io, reads), reads.size());
            for (int i = 0; i < kBlocks; ++i) {
                const auto at = static_cast<size_t>(i);
                if (reads[at].result != static_cast<int64_t>(kIoAlignment)) continue;
                ++*good;
                EXPECT_TRUE(blocks[at] == Block(i)) << i;
            }
        }
    };
    int now = 0, soon = 0;
    std::thread other([&] { read_all(Urgency::kSoon, "read_eio=0.05,short_read=0.05,seed=7", &soon); });
    read_all(Urgency::kNow, "read_eio=0.05,short_read=0.05,seed=5", &now);
    other.join();
    for (const int good : {now, soon}) {
        EXPECT_LT(good, kBlocks * kRounds);
        EXPECT_GT(good, kBlocks * kRounds * 3 / 4);
    }
    for (const Urgency urgency : {Urgency::kNow, Urgency::kSoon}) EXPECT_EQ(queue_->under_way(urgency), 0);
}

}  // namespace
}  // namespace atlas::io
