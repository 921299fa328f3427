#include "weights/streamer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "../io/no_direct.h"
#include "mapped_file.h"

namespace atlas::weights {
namespace {

using test::MappedFile;

constexpr size_t kRowBytes = 864;
constexpr int64_t kRows = 256;
constexpr size_t kWeightBytes = kRows * kRowBytes;
constexpr size_t kWeights = 40;
// Neither at the beginning of the file nor at one of a block.
constexpr size_t kBegin = 4096 + 96;
constexpr size_t kBytes = kBegin + kWeights * kWeightBytes + 500;  // 8.4 MiB: slots of 64 KiB, a ring of 1 MiB

/** Whether all rows of a use are those of the file, read as a product's threads would. */
bool read_weight(const Pass& pass, StreamedWeight& weight, const MappedFile& mapped, int threads) {
    const auto at = static_cast<size_t>(weight.data - mapped.memory());
    std::atomic<size_t> next{0};
    std::atomic<bool> good{true};
    const auto work = [&] {
        for (size_t i = next++; i < 2 * weight.chunks.size(); i = next++) {
            Chunk& chunk = weight.chunks[i / 2];
            const int64_t begin = i % 2 == 0 ? 0 : chunk.rows / 2, end = i % 2 == 0 ? chunk.rows / 2 : chunk.rows;
            const std::byte* data = pass.wait(chunk);
            if (!data) {
                good = false;
                return;
            }
            if (std::memcmp(data + static_cast<size_t>(begin) * kRowBytes,
                            mapped.content().data() + at + static_cast<size_t>(chunk.first_row + begin) * kRowBytes,
                            static_cast<size_t>(end - begin) * kRowBytes) != 0)
                good = false;
            pass.done(chunk, end - begin);
        }
    };
    std::vector<std::thread> team;
    for (int i = 1; i < threads; ++i) team.emplace_back(work);
    work();
    for (std::thread& thread : team) thread.join();
    return good;
}

struct Variant {
    const char* name;
    bool uring;
    int threads;
};
void PrintTo(const Variant& variant, std::ostream* out) { *out << variant.name; }

class StreamerTest : public testing::TestWithParam<Variant> {
protected:
    void open(uint64_t ram, const std::string& faults = "", double patience = 20) {
        const Status status = Streamer::open({ram, faults, GetParam().uring, patience}, &streamer_);
        ASSERT_TRUE(status.is_ok()) << status.message();
        streamer_->add(mapped_.memory() + kBegin, kBytes - kBegin);
    }
    WeightUse use(size_t weight, int64_t times = 1) const {
        return {mapped_.memory() + kBegin + weight * kWeightBytes, kRows, kRowBytes, times};
    }
    std::vector<WeightUse> all() const {
        std::vector<WeightUse> uses;
        for (size_t i = 0; i < kWeights; ++i) uses.push_back(use(i));
        return uses;
    }
    /** What a graph would get: ok when every byte was right. `stop`: uses after which it ends early. */
    Status run(const std::vector<WeightUse>& uses, size_t stop = ~size_t{0}) {
        Pass pass;
        if (Status status = streamer_->begin(uses, 1, &pass); !status.is_ok()) return status;
        streaming_ = pass.is_streaming();
        for (const WeightUse& one : uses) {
            for (int64_t i = 0; i < one.times; ++i) {
                if (stop-- == 0) return Status::ok();
                StreamedWeight* weight = pass.next(one.data);
                if (!weight) continue;
                const bool good = read_weight(pass, *weight, mapped_, GetParam().threads);
                if (const Status status = pass.status(); !status.is_ok()) return status;
                if (!good) return Status::internal("other bytes");
            }
        }
        return pass.finish();
    }
    uint64_t number(const std::string& name) const {
        const std::string text = streamer_->json(), key = "\"" + name + "\": ";
        return std::stoull(text.substr(text.find(key) + key.size()));
    }
    void expect_good(const std::vector<WeightUse>& uses) {
        const Status status = run(uses);
        EXPECT_TRUE(status.is_ok()) << status.message();
    }

    const MappedFile mapped_{kBytes};
    std::unique_ptr<Streamer> streamer_;
    bool streaming_ = false;
    uint64_t seen_ = 0;
};

TEST_P(StreamerTest, EveryPassGetsTheFilesBytes) {
    open(4 << 20);
    for (int i = 0; i < 5; ++i) expect_good(all());
    EXPECT_TRUE(streaming_);
    // 3 of the 4 MiB stay, and all of them are used.
    const uint64_t pinned = number("pinned_bytes"), whole = number("weight_bytes");
    EXPECT_LE(pinned, 3u << 20);
    EXPECT_GT(pinned, (3u << 20) - (128 << 10));
    // The subset is fixed: after it was read, each pass reads the others, and what is ahead of the next one.
    const uint64_t before = number("read_bytes");
    for (int i = 0; i < 4; ++i) expect_good(all());
    const uint64_t read = number("read_bytes") - before;
    EXPECT_GE(read, 4 * (whole - pinned) - (2 << 20));
    EXPECT_LE(read, 4 * (whole - pinned) + (2 << 20));
}

TEST_P(StreamerTest, FilesWithoutDirectReadsWillDo) {
    {
        const io::NoDirect none;
        open(4 << 20);
    }
    EXPECT_FALSE(streamer_->stats().direct);
    for (int i = 0; i < 5; ++i) expect_good(all());
    EXPECT_TRUE(streaming_);
    EXPECT_GT(number("read_bytes"), number("weight_bytes"));
}

TEST_P(StreamerTest, WhatFitsIsLeftWhereItIs) {
    open(kBytes);
    expect_good(all());
    EXPECT_FALSE(streaming_);
    EXPECT_EQ(number("reads"), 0u);
}

TEST_P(StreamerTest, AnotherBudgetHoldsFromTheNextPassOn) {
    open(kBytes);
    expect_good(all());
    EXPECT_FALSE(streaming_);
    EXPECT_EQ(streamer_->mapped_bytes(), kBytes - kBegin);
    uint64_t read = 0;
    for (const uint64_t ram : {uint64_t{4} << 20, uint64_t{3} << 20, uint64_t{6} << 20}) {
        streamer_->set_ram(ram);
        EXPECT_EQ(number("pinned_bytes"), 0u);
        for (int i = 0; i < 3; ++i) expect_good(all());
        EXPECT_TRUE(streaming_);
        EXPECT_EQ(number("ram"), ram);
        EXPECT_LE(number("pinned_bytes"), ram - (1 << 20));
        EXPECT_GT(number("pinned_bytes"), ram - (1 << 20) - (128 << 10));
        EXPECT_GT(number("read_bytes"), read) << "what was read before counts";
        read = number("read_bytes");
    }
    streamer_->set_ram(kBytes);
    expect_good(all());
    EXPECT_FALSE(streaming_);
    EXPECT_EQ(number("read_bytes"), read);
    streamer_->remove(mapped_.memory() + kBegin);
    EXPECT_EQ(streamer_->mapped_bytes(), 0u);
}

TEST_P(StreamerTest, AnotherBudgetWaitsForThePassUnderWay) {
    open(4 << 20);
    std::atomic<bool> set{false};
    std::thread other;
    {
        Pass pass;
        const std::vector<WeightUse> uses = all();
        ASSERT_TRUE(streamer_->begin(uses, 1, &pass).is_ok());
        other = std::thread([&] {
            streamer_->set_ram(3 << 20);
            set = true;
        });
        for (const WeightUse& one : uses) {
            StreamedWeight* weight = pass.next(one.data);
            ASSERT_NE(weight, nullptr);
            EXPECT_TRUE(read_weight(pass, *weight, mapped_, GetParam().threads));
        }
        EXPECT_FALSE(set);
        EXPECT_TRUE(pass.finish().is_ok());
    }
    other.join();
    EXPECT_EQ(streamer_->ram(), uint64_t{3} << 20);
    expect_good(all());
}

TEST_P(StreamerTest, WeightsThatFitBesideTheRingAreReadOnce) {
    open(4 << 20);
    std::vector<WeightUse> some = all();
    some.resize(8);                                 // 1.7 MiB
    for (int i = 0; i < 3; ++i) expect_good(some);  // the second one spends what the rest of the file was left
    const uint64_t before = number("reads");
    for (int i = 0; i < 3; ++i) expect_good(some);
    EXPECT_EQ(number("pinned_bytes"), number("weight_bytes"));
    EXPECT_EQ(number("reads"), before);
}

TEST_P(StreamerTest, OrdersMayChange) {
    open(3 << 20);
    std::vector<WeightUse> backward = all(), twice = all();
    std::reverse(backward.begin(), backward.end());
    for (WeightUse& one : twice) one.times = 2;
    std::vector<WeightUse> tail(backward.begin(), backward.begin() + 3);
    std::vector<WeightUse> tied = {use(3), use(4), use(3), use(3), use(39), use(3)};
    for (int i = 0; i < 3; ++i) {
        for (const auto& uses : {all(), backward, twice, tail, tied, {use(20)}}) expect_good(uses);
    }
}

TEST_P(StreamerTest, ManyOrders) {
    open(3 << 20);
    for (size_t i = 0; i < 40; ++i) expect_good({use(i), use((7 * i) % kWeights), use((3 * i + 1) % kWeights)});
}

TEST_P(StreamerTest, AGraphThatEndsEarlyHarmsNoOther) {
    open(3 << 20);
    for (size_t stop : {0u, 1u, 17u, 39u}) {
        EXPECT_TRUE(run(all(), stop).is_ok());
        expect_good(all());
    }
}

TEST_P(StreamerTest, AnUnknownWeightIsReadAsMapped) {
    open(3 << 20);
    const std::vector<std::byte> other(kWeightBytes);
    const WeightUse unknown{other.data(), kRows, kRowBytes, 1};
    // Rows that no slot holds 32 of, too.
    const WeightUse wide{mapped_.memory() + kBegin, 64, 4096, 1};
    Pass pass;
    ASSERT_TRUE(streamer_->begin(std::vector{unknown, use(1), wide}, 1, &pass).is_ok());
    EXPECT_EQ(pass.next(other.data()), nullptr);
    StreamedWeight* weight = pass.next(use(1).data);
    ASSERT_NE(weight, nullptr);
    EXPECT_TRUE(read_weight(pass, *weight, mapped_, GetParam().threads));
    EXPECT_EQ(pass.next(wide.data), nullptr);
    EXPECT_TRUE(pass.finish().is_ok());
}

TEST_P(StreamerTest, GraphsOfSeveralThreadsTakeTurns) {
    open(3 << 20);
    std::atomic<int> bad{0};
    const auto work = [&](size_t first) {
        for (int i = 0; i < 3; ++i) {
            Pass pass;
            std::vector<WeightUse> uses = all();
            std::rotate(uses.begin(), uses.begin() + static_cast<ptrdiff_t>(first), uses.end());
            if (!streamer_->begin(uses, 1, &pass).is_ok()) ++bad;
            for (const WeightUse& one : uses) {
                StreamedWeight* weight = pass.next(one.data);
                if (weight && !read_weight(pass, *weight, mapped_, 1)) ++bad;
            }
            if (!pass.finish().is_ok()) ++bad;
        }
    };
    std::thread one(work, 0), two(work, 11);
    one.join();
    two.join();
    EXPECT_EQ(bad, 0);
}

TEST_P(StreamerTest, ModelsComeAndGo) {
    open(3 << 20);
    expect_good(all());
    const MappedFile second(kBytes, 7);
    streamer_->add(second.memory(), second.bytes());
    expect_good(all());
    const WeightUse of_second{second.memory() + 50, kRows, kRowBytes, 1};
    for (int i = 0; i < 2; ++i) {
        Pass pass;
        ASSERT_TRUE(streamer_->begin(std::vector{use(2), of_second}, 1, &pass).is_ok());
        StreamedWeight* weight = pass.next(use(2).data);
        ASSERT_NE(weight, nullptr);
        EXPECT_TRUE(read_weight(pass, *weight, mapped_, GetParam().threads));
        weight = pass.next(of_second.data);
        ASSERT_NE(weight, nullptr);
        EXPECT_TRUE(read_weight(pass, *weight, second, GetParam().threads));
        ASSERT_TRUE(pass.finish().is_ok());
        if (i == 0) expect_good(all());
    }
    streamer_->remove(second.memory());
    expect_good(all());
    streamer_->remove(mapped_.memory() + kBegin);
    expect_good(all());
    EXPECT_FALSE(streaming_);
}

TEST_P(StreamerTest, AFailingReadFailsTheGraphAndIsNamed) {
    open(3 << 20, "read_eio=1");
    for (int i = 0; i < 2; ++i) {
        const Status status = run(all());
        EXPECT_EQ(status.code(), StatusCode::kIo);
        EXPECT_NE(status.message().find("of '" + mapped_.path() + "'"), std::string::npos) << status.message();
        EXPECT_NE(status.message().find("errno 5"), std::string::npos) << status.message();
    }
}

TEST_P(StreamerTest, AShortReadFailsTheGraph) {
    open(3 << 20, "short_read=1");
    const Status status = run(all());
    EXPECT_EQ(status.code(), StatusCode::kIo);
    EXPECT_NE(status.message().find("only "), std::string::npos) << status.message();
}

TEST_P(StreamerTest, RareFaultsAreTriedAgainOrFail) {
    open(3 << 20, "read_eio=0.05,short_read=0.05,seed=3");
    int good = 0, failed = 0;
    for (int i = 0; i < 30; ++i) {
        const Status status = run(all());
        EXPECT_TRUE(status.is_ok() || status.code() == StatusCode::kIo) << status.message();
        (status.is_ok() ? good : failed) += 1;
    }
    EXPECT_GT(number("retries"), 0u);
    EXPECT_GT(good, 0);
    EXPECT_EQ(failed > 0, number("failures") > 0);
}

TEST_P(StreamerTest, ADeviceThatHangsFailsTheGraph) {
    open(3 << 20, "hang=1,hang_ms=1500,after=60", 0.2);
    Status status;
    for (int i = 0; i < 3 && status.is_ok(); ++i) status = run(all());
    EXPECT_EQ(status.code(), StatusCode::kIo);
    EXPECT_NE(status.message().find("no answer within"), std::string::npos) << status.message();
    // It may end while the device is still silent.
    streamer_.reset();
}

// What was read ahead is used before the reader, busy with other reads, comes to look at the new order: it must not read that again, since nobody would
// free its slots.
TEST_P(StreamerTest, TheReaderMayComeLate) {
    open(3 << 20, "hang=1,hang_ms=4", 3);
    std::vector<WeightUse> some = all();
    some.resize(20);
    for (int i = 0; i < 4; ++i) expect_good(some);
    usleep(300000);  // the ring fills
    for (int i = 0; i < 2; ++i) expect_good(all());
}

/** A program whose own pages are taken back and read again for each token is told. */
TEST_P(StreamerTest, MemoryThatIsShortIsSaid) {
    open(3 << 20);
    const MappedFile other(4 << 20, 5);
    testing::internal::CaptureStderr();
    for (int i = 0; i < 12; ++i) {
        EXPECT_TRUE(run({use(1)}).is_ok());
        madvise(const_cast<std::byte*>(other.memory()), other.bytes(), MADV_DONTNEED);
        madvise(const_cast<std::byte*>(other.memory()), other.bytes(), MADV_RANDOM);
        fsync(other.fd());
        posix_fadvise(other.fd(), 0, 0, POSIX_FADV_DONTNEED);
        for (size_t at = 0; at < other.bytes(); at += 4096) seen_ += std::to_integer<uint64_t>(other.memory()[at]);
    }
    const std::string log = testing::internal::GetCapturedStderr();
    const std::string said = "memory is short beside ATLAS_WEIGHTS_RAM=3145728";
    EXPECT_NE(log.find(said), std::string::npos) << log << streamer_->json();
    EXPECT_EQ(log.find(said), log.rfind(said)) << log;
}

TEST_P(StreamerTest, ATruncatedFileFailsTheGraph) {
    open(3 << 20);
    expect_good(all());
    mapped_.truncate(kBytes / 2);
    const Status status = run(all());
    EXPECT_EQ(status.code(), StatusCode::kIo);
    EXPECT_NE(status.message().find(std::to_string(kBytes / 2)), std::string::npos) << status.message();
}

TEST_P(StreamerTest, AFileThatChangesMeanwhileFailsTheGraph) {
    open(3 << 20);
    expect_good(all());
    usleep(20000);  // a clock tick of the file system
    Pass pass;
    ASSERT_TRUE(streamer_->begin(std::vector{use(1)}, 1, &pass).is_ok());
    StreamedWeight* weight = pass.next(use(1).data);
    ASSERT_NE(weight, nullptr);
    read_weight(pass, *weight, mapped_, 1);
    mapped_.write(kBytes - 1, {std::byte{1}});
    EXPECT_EQ(pass.finish().code(), StatusCode::kIo);
    EXPECT_EQ(run(all()).code(), StatusCode::kIo);
}

INSTANTIATE_TEST_SUITE_P(, StreamerTest,
                         testing::Values(Variant{"one_thread", true, 1}, Variant{"four_threads", true, 4},
                                         Variant{"no_uring", false, 2}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Streamer, BadSettingsAreNamed) {
    std::unique_ptr<Streamer> streamer;
    Status status = Streamer::open({1000, ""}, &streamer);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("ATLAS_WEIGHTS_RAM=1000"), std::string::npos) << status.message();
    status = Streamer::open({4 << 20, "x=1"}, &streamer);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("x=1"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace atlas::weights
