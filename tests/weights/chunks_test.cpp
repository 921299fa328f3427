#include "weights/chunks.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "io/block_io.h"

namespace atlas::weights {
namespace {

constexpr size_t kMost = 64 << 10;

TEST(Cut, CoversEveryRowOnce) {
    for (const size_t row_bytes : {18u, 576u, 864u, 1260u}) {
        for (const int64_t rows : {1, 31, 32, 33, 640, 1537}) {
            for (const uint64_t offset : {0u, 32u, 4096u, 1781760u + 64u}) {
                const std::vector<Chunk> chunks = cut(nullptr, offset, rows, row_bytes, kMost);
                ASSERT_FALSE(chunks.empty());
                int64_t next = 0;
                for (const Chunk& chunk : chunks) {
                    EXPECT_EQ(chunk.first_row, next);
                    EXPECT_EQ(chunk.first_row % kChunkRows, 0);
                    EXPECT_GT(chunk.rows, 0);
                    EXPECT_EQ(chunk.offset % io::kIoAlignment, 0u);
                    EXPECT_EQ(chunk.bytes % io::kIoAlignment, 0u);
                    EXPECT_LE(chunk.bytes, kMost);
                    EXPECT_EQ(chunk.offset + chunk.head, offset + static_cast<uint64_t>(next) * row_bytes);
                    EXPECT_EQ(chunk.needed, chunk.head + static_cast<size_t>(chunk.rows) * row_bytes);
                    EXPECT_GE(chunk.bytes, chunk.needed);
                    EXPECT_LT(chunk.bytes, chunk.needed + io::kIoAlignment);
                    next += chunk.rows;
                }
                EXPECT_EQ(next, rows);
            }
        }
    }
}

TEST(Cut, RowsThatDoNotFitAreLeft) {
    // 32 rows and what rounding may add.
    const size_t fits = (kMost - 2 * io::kIoAlignment) / 32;
    EXPECT_FALSE(cut(nullptr, 100, 64, fits, kMost).empty());
    EXPECT_TRUE(cut(nullptr, 100, 64, fits + 1, kMost).empty());
    // Fewer rows need less.
    EXPECT_FALSE(cut(nullptr, 100, 4, fits + 1, kMost).empty());
}

class Pinned : public testing::Test {
protected:
    Pinned() : chunks_(1000) {
        for (size_t i = 0; i < chunks_.size(); ++i) {
            chunks_[i].bytes = (i % 7 + 1) * io::kIoAlignment;
            all_.push_back(&chunks_[i]);
            bytes_ += chunks_[i].bytes;
        }
    }
    std::vector<Chunk> chunks_;
    std::vector<Chunk*> all_;
    uint64_t bytes_ = 0;
};

TEST_F(Pinned, AreSpreadEvenly) {
    for (const double share : {0.1, 0.25, 0.5, 0.9}) {
        const std::vector<Chunk*> chosen = choose_pinned(all_, share, bytes_);
        uint64_t before = 0, pinned = 0;
        size_t next = 0;
        for (Chunk& chunk : chunks_) {
            before += chunk.bytes;
            if (next < chosen.size() && chosen[next] == &chunk) {
                pinned += chunk.bytes;
                ++next;
            }
            // Never further off than the largest chunk.
            EXPECT_NEAR(static_cast<double>(pinned), share * static_cast<double>(before), 7.0 * io::kIoAlignment);
        }
        EXPECT_EQ(next, chosen.size());
    }
}

TEST_F(Pinned, AreAllWhereAllFit) { EXPECT_EQ(choose_pinned(all_, 1.0, bytes_), all_); }

TEST_F(Pinned, AreNoMoreThanThereIsRoomFor) {
    uint64_t pinned = 0;
    for (const Chunk* chunk : choose_pinned(all_, 0.9, bytes_ / 10)) pinned += chunk->bytes;
    EXPECT_LE(pinned, bytes_ / 10);
    EXPECT_GT(pinned, bytes_ / 11);
    EXPECT_TRUE(choose_pinned(all_, 0.0, bytes_).empty());
    EXPECT_TRUE(choose_pinned(all_, 1.0, 0).empty());
}

}  // namespace
}  // namespace atlas::weights
