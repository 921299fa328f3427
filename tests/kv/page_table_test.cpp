#include "kv/page_table.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <random>

namespace atlas::kv {
namespace {

std::vector<uint8_t> pattern(size_t bytes) {
    std::vector<uint8_t> data(bytes);
    std::iota(data.begin(), data.end(), uint8_t{1});
    return data;
}

class PageTableTest : public testing::Test {
protected:
    Budget budget_;
    RamTier tier_{budget_};
    WriteClock clock_;
};

TEST_F(PageTableTest, UnwrittenReadsAsZeroAndCostsNothing) {
    const uint64_t before = budget_.in_use();
    PageTable tensor(tier_, clock_, 100, 1000);
    std::vector<uint8_t> data(tensor.bytes(), 7);
    EXPECT_TRUE(tensor.read(0, data.data(), data.size()).is_ok());
    for (const uint8_t byte : data) ASSERT_EQ(byte, 0);
    EXPECT_EQ(budget_.in_use(), before);
    ASSERT_TRUE(tensor.fill(0, 0, 500).is_ok());
    EXPECT_EQ(budget_.in_use(), before);
}

TEST_F(PageTableTest, RandomWritesAgreeWithPlainMemory) {
    PageTable tensor(tier_, clock_, 36, 700);
    std::vector<uint8_t> plain(tensor.bytes());
    std::mt19937 rng(5);
    for (int i = 0; i < 300; ++i) {
        const size_t offset = rng() % plain.size();
        const size_t bytes = rng() % (plain.size() - offset) % 9000 + 1;
        if (i % 3 == 0) {
            const auto value = static_cast<uint8_t>(i % 2 ? 0 : rng());
            ASSERT_TRUE(tensor.fill(offset, value, bytes).is_ok());
            std::memset(plain.data() + offset, value, bytes);
        } else {
            const auto data = pattern(bytes);
            ASSERT_TRUE(tensor.write(offset, data.data(), bytes).is_ok());
            std::memcpy(plain.data() + offset, data.data(), bytes);
        }
    }
    std::vector<uint8_t> read(plain.size());
    EXPECT_TRUE(tensor.read(0, read.data(), read.size()).is_ok());
    EXPECT_EQ(read, plain);
    Pinned pinned;
    const PageRange all{0, tensor.pages()};
    ASSERT_TRUE(tensor.pin({&all, 1}, &pinned).is_ok());
    for (int64_t page = 0; page < tensor.pages(); ++page) {
        const size_t offset = static_cast<size_t>(page) * tensor.page_bytes();
        const size_t bytes = std::min(tensor.page_bytes(), plain.size() - offset);
        EXPECT_EQ(std::memcmp(pinned.page(page), plain.data() + offset, bytes), 0);
    }
}

TEST_F(PageTableTest, BudgetIsKeptAndNamedAndAWriteIsWholeOrNothing) {
    PageTable tensor(tier_, clock_, 64, 640);  // ten pages of 4096 bytes
    budget_.set_limit(budget_.in_use() + 2 * 4096);
    const auto data = pattern(3 * 4096);
    const Status status = tensor.write(0, data.data(), data.size());
    ASSERT_EQ(status.code(), StatusCode::kOutOfMemory);
    EXPECT_NE(status.message().find("ATLAS_KV_RAM="), std::string::npos);
    EXPECT_EQ(budget_.in_use(), 0u);
    EXPECT_TRUE(tensor.is_unmade(0, tensor.bytes()));
    EXPECT_TRUE(tensor.write(0, data.data(), 2 * 4096).is_ok());
}

TEST_F(PageTableTest, AnUpdateTouchesOnlyPagesThatItChanges) {
    PageTable tensor(tier_, clock_, 64, 5 * kPageRows);
    const auto data = pattern(4096);
    ASSERT_TRUE(tensor.write(4096, data.data(), data.size()).is_ok());
    EXPECT_TRUE(tensor.is_unmade(0, 4096));
    EXPECT_FALSE(tensor.is_unmade(0, 4097));
    EXPECT_FALSE(tensor.is_unmade(4096, 8192));
    EXPECT_TRUE(tensor.is_unmade(8192, 3 * 4096));
    const uint64_t in_use = budget_.in_use();
    std::vector<uint8_t> whole(tensor.bytes());
    EXPECT_TRUE(tensor.read(0, whole.data(), whole.size()).is_ok());
    whole[2 * 4096 + 7] = 1;  // the page behind: does not exist yet
    std::vector<uint64_t> versions;
    for (int64_t page = 0; page < 5; ++page) versions.push_back(tensor.page_version(page));
    // Begins and ends inside of pages.
    ASSERT_TRUE(tensor.update(100, whole.data() + 100, whole.size() - 200).is_ok());
    EXPECT_EQ(budget_.in_use(), in_use + 4096);
    for (int64_t page = 0; page < 5; ++page) {
        EXPECT_EQ(tensor.page_version(page) != versions[static_cast<size_t>(page)], page == 2) << page;
    }
    std::vector<uint8_t> read(whole.size());
    EXPECT_TRUE(tensor.read(0, read.data(), read.size()).is_ok());
    EXPECT_EQ(read, whole);
}

TEST_F(PageTableTest, ReusedPagesAreZeroAgain) {
    PageTable tensor(tier_, clock_, 64, 64);
    const auto data = pattern(4096);
    ASSERT_TRUE(tensor.write(0, data.data(), data.size()).is_ok());
    tensor.clear();
    ASSERT_TRUE(tensor.write(0, data.data(), 1).is_ok());
    std::vector<uint8_t> read(4096);
    EXPECT_TRUE(tensor.read(0, read.data(), read.size()).is_ok());
    EXPECT_EQ(read[0], data[0]);
    for (size_t i = 1; i < read.size(); ++i) ASSERT_EQ(read[i], 0);
}

TEST_F(PageTableTest, VersionsAndTheClockAreWiderThan32Bits) {
    WriteClock clock(UINT32_MAX - 1);
    PageTable tensor(tier_, clock, 64, 3 * kPageRows);
    uint64_t version = 0, chunk = 0, epoch = 0;
    for (int value = 1; value <= 5; ++value) {
        clock.advance();
        ASSERT_TRUE(tensor.write(0, &value, sizeof value).is_ok());
        EXPECT_GT(tensor.page_version(0), version);
        EXPECT_GT(tensor.chunk_version(0), chunk);
        EXPECT_GT(tensor.page_epoch(0), epoch);
        EXPECT_EQ(tensor.page_epoch(0), clock.now());
        version = tensor.page_version(0);
        chunk = tensor.chunk_version(0);
        epoch = tensor.page_epoch(0);
    }
    EXPECT_GT(version, uint64_t{UINT32_MAX});
    EXPECT_GT(chunk, uint64_t{UINT32_MAX});
    EXPECT_GT(epoch, uint64_t{UINT32_MAX});
}

TEST_F(PageTableTest, TablesHaveDifferentNumbers) {
    WriteClock other;
    PageTable a(tier_, clock_, 64, 64), b(tier_, clock_, 64, 64), c(tier_, other, 64, 64);
    EXPECT_NE(a.id(), c.id());
    EXPECT_NE(a.id(), b.id());
}

TEST_F(PageTableTest, AFailedWriteIsDamageUntilItsRowsAreWrittenOrCleared) {
    PageTable tensor(tier_, clock_, 64, 3 * kPageRows);
    const auto data = pattern(2 * 4096);
    const auto fails = [&](auto operation, int64_t first, int64_t end) {
        tensor.clear();
        ASSERT_TRUE(tensor.write(0, data.data(), 4096).is_ok());
        EXPECT_TRUE(tensor.damage().is_ok());
        budget_.set_limit(4096);
        EXPECT_EQ(operation().code(), StatusCode::kOutOfMemory);
        budget_.set_limit(0);
        EXPECT_EQ(tensor.damage().code(), StatusCode::kOutOfMemory);
        EXPECT_NE(tensor.damage().message().find("ATLAS_KV_RAM=4096"), std::string::npos);
        for (int64_t row = 0; row < tensor.rows(); ++row)
            ASSERT_EQ(tensor.is_damaged(row, row + 1), row >= first && row < end) << row;
        // Parts of rows mend nothing.
        ASSERT_TRUE(tensor.write(static_cast<size_t>(end) * 64 - 63, data.data(), 126).is_ok());
        EXPECT_TRUE(tensor.is_damaged(end - 1, end));
        WriteLease lease;
        ASSERT_TRUE(tensor.lease(static_cast<size_t>(first) * 64, 64, &lease).is_ok());
        EXPECT_TRUE(tensor.is_damaged(first, first + 1));
        tensor.mend(static_cast<size_t>(first) * 64, 64);
        EXPECT_FALSE(tensor.is_damaged(first, first + 1));
        lease.end();
        ASSERT_TRUE(tensor.fill(static_cast<size_t>(first + 1) * 64, 0, 4096).is_ok());
        ASSERT_TRUE(tensor.write(static_cast<size_t>(first) * 64, data.data(), data.size()).is_ok());
        EXPECT_TRUE(tensor.damage().is_ok());
    };
    fails([&] { return tensor.write(30 * 64, data.data(), 4096); }, 30, 94);
    fails([&] { return tensor.update(30 * 64, data.data(), 4096); }, 30, 94);
    fails([&] { return tensor.fill(64 * 64 - 3, 1, 4096); }, 63, 128);
    fails([&] { return tensor.write(3 * 64, data.data(), 4096); }, 3, 67);
    for (const bool release : {false, true}) {
        tensor.clear();
        budget_.set_limit(1);
        EXPECT_FALSE(tensor.write(4096, data.data(), 4096).is_ok());
        budget_.set_limit(0);
        const PageRange page{1, 1};
        release ? tensor.release({&page, 1}) : tensor.clear();
        EXPECT_TRUE(tensor.damage().is_ok());
    }
}

TEST_F(PageTableTest, ACopyOfDamageIsDamage) {
    PageTable tensor(tier_, clock_, 64, 4 * kPageRows);
    const auto data = pattern(4096);
    budget_.set_limit(1);
    EXPECT_FALSE(tensor.write(0, data.data(), 64).is_ok());
    ASSERT_TRUE(tensor.copy(2 * 4096, tensor, 0, 4096).is_ok());
    EXPECT_TRUE(tensor.is_damaged(2 * kPageRows, 3 * kPageRows));
    EXPECT_FALSE(tensor.is_damaged(1, 2 * kPageRows));
    EXPECT_FALSE(tensor.is_damaged(3 * kPageRows, 4 * kPageRows));
}

TEST_F(PageTableTest, ZerosMakeNoPages) {
    PageTable tensor(tier_, clock_, 64, 4 * kPageRows);
    const std::vector<uint8_t> zeros(tensor.bytes());
    ASSERT_TRUE(tensor.write(0, zeros.data(), zeros.size()).is_ok());
    EXPECT_EQ(budget_.in_use(), 0u);
    std::vector<uint8_t> data = zeros;
    data[2 * 4096 + 1] = 1;
    ASSERT_TRUE(tensor.write(0, data.data(), data.size()).is_ok());
    EXPECT_EQ(budget_.in_use(), 4096u);
    std::vector<uint8_t> read(data.size());
    EXPECT_TRUE(tensor.read(0, read.data(), read.size()).is_ok());
    EXPECT_EQ(read, data);
    ASSERT_TRUE(tensor.fill(2 * 4096 - 5, 0, 4096 + 5).is_ok());
    EXPECT_EQ(budget_.in_use(), 0u);
}

TEST_F(PageTableTest, ReleasedPagesAreZeroGivenBackAndCountAsWritten) {
    PageTable tensor(tier_, clock_, 64, 5 * kPageRows);
    const auto data = pattern(tensor.bytes());
    ASSERT_TRUE(tensor.write(0, data.data(), data.size()).is_ok());
    const uint64_t before = tensor.page_version(2), other = tensor.page_version(1), layout = tensor.layout();
    clock_.advance();
    const PageRange ranges[] = {{2, 1}, {4, 1}, {2, 1}};
    tensor.release(ranges);
    EXPECT_EQ(budget_.in_use(), 3 * 4096u);
    EXPECT_GT(tensor.page_version(2), before);
    EXPECT_EQ(tensor.page_version(1), other);
    EXPECT_EQ(tensor.page_epoch(2), clock_.now());
    EXPECT_NE(tensor.layout(), layout);
    EXPECT_TRUE(tensor.is_unmade(2 * 4096, 4096));
    std::vector<uint8_t> read(tensor.bytes()), expected = data;
    EXPECT_TRUE(tensor.read(0, read.data(), read.size()).is_ok());
    for (const size_t page : {2, 4}) std::fill_n(expected.begin() + static_cast<ptrdiff_t>(page * 4096), 4096, 0);
    EXPECT_EQ(read, expected);
}

}  // namespace
}  // namespace atlas::kv
