// Experts that are streamed, through a Streamer as products use it.

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <random>
#include <set>
#include <thread>

#include "mapped_file.h"
#include "weights/streamer.h"

namespace atlas::weights {
namespace {

using test::MappedFile;

constexpr int64_t kExperts = 24, kLayers = 4, kChosen = 3;
constexpr int64_t kRows = 96;
// Down has longer rows, and so slots of another size; neither begins at a block.
constexpr size_t kRowBytes = 576, kDownRowBytes = 612;
constexpr size_t kDense = 256 * kRowBytes;
constexpr size_t kBegin = 4096 + 96;
constexpr size_t kLayerBytes = kDense + kExperts * kRows * (2 * kRowBytes + kDownRowBytes);
constexpr size_t kBytes = kBegin + kLayers * kLayerBytes + 300;  // 17 MB

struct Variant {
    const char* name;
    bool uring;
    int threads;
};
void PrintTo(const Variant& variant, std::ostream* out) { *out << variant.name; }

class ExpertTest : public testing::TestWithParam<Variant> {
protected:
    using Choice = std::vector<int32_t>;  // ascending

    void open(uint64_t ram, const std::string& faults = "", double patience = 20) {
        const Status status = Streamer::open({ram, faults, GetParam().uring, patience}, &streamer_);
        ASSERT_TRUE(status.is_ok()) << status.message();
        streamer_->add(mapped_.memory() + kBegin, kBytes - kBegin);
    }

    /** Dense, gate, up and down of each layer. `turns`: of down, whose columns may be too many for one. */
    std::vector<WeightUse> uses(int64_t turns = 1) const {
        std::vector<WeightUse> all;
        for (int32_t layer = 0; layer < kLayers; ++layer) {
            const std::byte* at = mapped_.memory() + kBegin + static_cast<size_t>(layer) * kLayerBytes;
            all.push_back({at, 256, kRowBytes, 1});
            at += kDense;
            for (const size_t row_bytes : {kRowBytes, kRowBytes, kDownRowBytes}) {
                const size_t stride = kRows * row_bytes;
                all.push_back(
                    {at, kRows, row_bytes, row_bytes == kDownRowBytes ? turns : 1, kExperts, stride, kChosen, layer});
                at += kExperts * stride;
            }
        }
        return all;
    }

    bool read_rows(const std::byte* data, const std::byte* mapped, size_t bytes) const {
        return std::memcmp(data, mapped_.content().data() + (mapped - mapped_.memory()), bytes) == 0;
    }

    template <class Work>
    void on_threads(size_t shares, const Work& work) const {
        std::atomic<size_t> next{0};
        const auto run = [&] {
            for (size_t i = next++; i < shares; i = next++) work(i);
        };
        std::vector<std::thread> team;
        for (int i = 1; i < GetParam().threads; ++i) team.emplace_back(run);
        run();
        for (std::thread& thread : team) thread.join();
    }

    bool multiply_dense(const Pass& pass, StreamedWeight& weight) const {
        std::atomic<bool> good{true};
        on_threads(weight.chunks.size(), [&](size_t i) {
            Chunk& chunk = weight.chunks[i];
            const std::byte* data = pass.wait(chunk);
            good = good && data &&
                   read_rows(data, weight.data + static_cast<size_t>(chunk.first_row) * kRowBytes,
                             static_cast<size_t>(chunk.rows) * kRowBytes);
            if (data) pass.done(chunk, chunk.rows);
        });
        return good;
    }

    bool multiply(Pass& pass, ExpertMatrix& matrix, size_t row_bytes, const Choice& choice) const {
        pass.want(matrix, choice, std::vector<int64_t>(choice.size(), 1));
        EXPECT_EQ(std::set<int32_t>(matrix.order.begin(), matrix.order.end()),
                  std::set<int32_t>(choice.begin(), choice.end()));
        EXPECT_EQ(matrix.order.size(), choice.size());
        struct Share {
            int32_t expert;
            Chunk* chunk;
            int64_t begin, end;
        };
        std::vector<Share> shares;
        for (const int32_t expert : matrix.order) {
            for (Chunk& chunk : matrix.parts[static_cast<size_t>(expert)].chunks) {
                shares.push_back({expert, &chunk, 0, 32});
                if (chunk.rows > 32) shares.push_back({expert, &chunk, 32, chunk.rows});
            }
        }
        std::atomic<bool> good{true};
        on_threads(shares.size(), [&](size_t i) {
            const Share& share = shares[i];
            const std::byte* data = pass.wait(*share.chunk);
            if (!data) {
                good = false;
                return;
            }
            const auto first = static_cast<size_t>(share.expert * kRows + share.chunk->first_row + share.begin);
            if (!read_rows(data + static_cast<size_t>(share.begin) * row_bytes, matrix.data + first * row_bytes,
                           static_cast<size_t>(share.end - share.begin) * row_bytes))
                good = false;
            pass.done(matrix, matrix.parts[static_cast<size_t>(share.expert)], share.end - share.begin);
        });
        Pass::used(matrix);
        return good;
    }

    Choice some(size_t count) {
        std::set<int32_t> chosen;
        while (chosen.size() < count) {
            // A few are chosen much more often.
            const int32_t one = static_cast<int32_t>(random_() % kExperts);
            chosen.insert(random_() % 4 == 0 ? one : one / 4);
        }
        return {chosen.begin(), chosen.end()};
    }

    /** A graph. `count`: experts that its tokens choose in a layer; `stop`: products of experts after which it ends early. */
    Status run(size_t count, int64_t turns = 1, size_t stop = ~size_t{0}) {
        const std::vector<WeightUse> all = uses(turns);
        Pass pass;
        if (Status status = streamer_->begin(all, 1, &pass); !status.is_ok()) return status;
        Choice choice;
        for (const WeightUse& use : all) {
            if (use.experts == 0) {
                StreamedWeight* weight = pass.next(use.data);
                if (!weight) return Status::internal("not streamed");
                if (!multiply_dense(pass, *weight))
                    return pass.status().is_ok() ? Status::internal("other bytes") : pass.status();
                choice = some(count);
                continue;
            }
            for (int64_t turn = 0; turn < use.times; ++turn) {
                if (stop-- == 0) return Status::ok();
                ExpertMatrix* matrix = pass.next_experts(use.data);
                if (!matrix) return Status::internal("experts are not streamed");
                if (use.times > 1) choice = some(count);
                if (!multiply(pass, *matrix, use.row_bytes, choice))
                    return pass.status().is_ok() ? Status::internal("other bytes") : pass.status();
            }
        }
        return pass.finish();
    }
    void expect_good(size_t count, int64_t turns = 1) {
        const Status status = run(count, turns);
        EXPECT_TRUE(status.is_ok()) << status.message();
    }
    uint64_t number(const std::string& name) const {
        const std::string text = streamer_->json(), experts = text.substr(text.find("\"experts\""));
        const std::string key = "\"" + name + "\": ";
        return std::stoull(experts.substr(experts.find(key) + key.size()));
    }
    const MappedFile mapped_{kBytes};
    std::unique_ptr<Streamer> streamer_;
    std::mt19937 random_{3};
};

TEST_P(ExpertTest, EachGraphGetsTheFilesBytes) {
    open(9 << 20);
    for (int i = 0; i < 30; ++i) expect_good(kChosen);
    // Dense weights stay; what is left is the experts'.
    EXPECT_GT(number("bytes"), 6u << 20);
    EXPECT_LT(number("bytes"), 8u << 20);
    const uint64_t asked = 31 * kLayers * 3 * kChosen;
    EXPECT_LE(number("hits") + number("misses"), asked);
    EXPECT_GT(number("hits"), asked / 2);
    EXPECT_GT(number("evictions"), 0u);
}

/** All experts, of which memory has room for a few: they come and go within one product. */
TEST_P(ExpertTest, PromptsThatWantMoreThanMemoryHas) {
    open(3 << 20);
    for (int i = 0; i < 3; ++i) {
        expect_good(kExperts);
        expect_good(kChosen);
        expect_good(kExperts, 3);
        expect_good(kExperts / 2, 2);
    }
    EXPECT_LT(number("bytes"), 3u << 20);
}

TEST_P(ExpertTest, WhatWasReadStays) {
    open(16 << 20);  // all but a few
    for (int i = 0; i < 60; ++i) expect_good(kChosen);
    const uint64_t before = number("misses");
    for (int i = 0; i < 20; ++i) expect_good(kChosen);
    EXPECT_LT(number("misses") - before, 20u * kLayers * 3 * kChosen / 10);
}

/** The products behind the first one find their experts asked for, unless they want others. */
TEST_P(ExpertTest, OthersThanWereSaid) {
    open(4 << 20);
    for (int i = 0; i < 6; ++i) {
        const std::vector<WeightUse> all = uses();
        Pass pass;
        ASSERT_TRUE(streamer_->begin(all, 1, &pass).is_ok());
        for (const WeightUse& use : all) {
            if (use.experts == 0) {
                ASSERT_TRUE(multiply_dense(pass, *pass.next(use.data)));
                continue;
            }
            ExpertMatrix* matrix = pass.next_experts(use.data);
            ASSERT_NE(matrix, nullptr);
            ASSERT_TRUE(multiply(pass, *matrix, use.row_bytes, some(kChosen)));
        }
        ASSERT_TRUE(pass.finish().is_ok());
    }
}

/** Of these not even a few would fit into the budget. */
TEST_P(ExpertTest, LargeExpertsStayMapped) {
    open(3 << 20);
    const WeightUse large{mapped_.memory() + kBegin, 1024, kRowBytes, 1, 3, 1024 * kRowBytes, 1, 0};
    for (int i = 0; i < 2; ++i) {
        Pass pass;
        testing::internal::CaptureStderr();
        ASSERT_TRUE(streamer_->begin(std::vector{large}, 1, &pass).is_ok());
        const std::string log = testing::internal::GetCapturedStderr();
        EXPECT_EQ(log.find("experts stay in the mapped file") != std::string::npos, i == 0) << log;
        EXPECT_EQ(pass.next_experts(large.data), nullptr);
        EXPECT_TRUE(pass.finish().is_ok());
    }
}

TEST_P(ExpertTest, AGraphThatEndsEarlyHarmsNoOther) {
    open(3 << 20);
    for (const size_t stop : {0u, 1u, 2u, 5u, 11u}) {
        EXPECT_TRUE(run(kExperts / 2, 1, stop).is_ok());
        expect_good(kChosen);
        EXPECT_TRUE(run(kChosen, 1, stop).is_ok());
        expect_good(kExperts);
    }
}

TEST_P(ExpertTest, AFailingReadFailsTheGraphAndIsNamed) {
    for (const char* faults : {"read_eio=1,after=40", "short_read=1,after=40"}) {
        open(4 << 20, faults);
        Status status;
        for (int i = 0; i < 8 && status.is_ok(); ++i) status = run(kChosen);
        EXPECT_EQ(status.code(), StatusCode::kIo);
        EXPECT_NE(status.message().find("of '" + mapped_.path() + "'"), std::string::npos) << status.message();
    }
}

TEST_P(ExpertTest, RareFaultsAreTriedAgainOrFail) {
    open(4 << 20, "read_eio=0.08,short_read=0.08,seed=3");
    int good = 0, failed = 0;
    for (int i = 0; i < 60; ++i) {
        const Status status = run(kChosen);
        EXPECT_TRUE(status.is_ok() || status.code() == StatusCode::kIo) << status.message();
        (status.is_ok() ? good : failed) += 1;
    }
    EXPECT_GT(good, 0);
    EXPECT_GT(failed, 0);
}

TEST_P(ExpertTest, ADeviceThatHangsFailsTheGraph) {
    open(4 << 20, "hang=1,hang_ms=1500,after=80", 0.2);
    Status status;
    for (int i = 0; i < 8 && status.is_ok(); ++i) status = run(kChosen);
    EXPECT_EQ(status.code(), StatusCode::kIo);
    EXPECT_NE(status.message().find("no answer within"), std::string::npos) << status.message();
    // It may end while the device is still silent.
    streamer_.reset();
}

TEST_P(ExpertTest, ModelsComeAndGo) {
    open(4 << 20);
    expect_good(kChosen);
    const MappedFile second(1 << 20, 7);
    streamer_->add(second.memory(), second.bytes());
    for (int i = 0; i < 3; ++i) expect_good(kChosen);
    streamer_->remove(second.memory());
    for (int i = 0; i < 3; ++i) expect_good(kChosen);
}

INSTANTIATE_TEST_SUITE_P(, ExpertTest,
                         testing::Values(Variant{"one_thread", true, 1}, Variant{"four_threads", true, 4},
                                         Variant{"no_uring", false, 2}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace atlas::weights
