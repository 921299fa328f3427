#include "kv/paged_tensor.h"

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

class PagedTensorTest : public testing::Test {
protected:
    void TearDown() override { PageArena::set_budget(0); }
    PageArena arena_;
};

TEST_F(PagedTensorTest, UnwrittenReadsAsZeroAndCostsNothing) {
    const uint64_t before = PageArena::bytes_in_use();
    PagedTensor tensor(arena_, 100, 1000);
    std::vector<uint8_t> data(tensor.bytes(), 7);
    tensor.read(0, data.data(), data.size());
    for (const uint8_t byte : data) ASSERT_EQ(byte, 0);
    EXPECT_EQ(PageArena::bytes_in_use(), before);
    ASSERT_TRUE(tensor.fill(0, 0, 500).is_ok());
    EXPECT_EQ(PageArena::bytes_in_use(), before);
}

TEST_F(PagedTensorTest, RandomWritesAgreeWithPlainMemory) {
    PagedTensor tensor(arena_, 36, 700);
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
    tensor.read(0, read.data(), read.size());
    EXPECT_EQ(read, plain);
    for (int64_t page = 0; page * kPageRows < tensor.rows(); ++page) {
        const size_t offset = static_cast<size_t>(page) * tensor.page_bytes();
        const size_t bytes = std::min(tensor.page_bytes(), plain.size() - offset);
        EXPECT_EQ(std::memcmp(tensor.page(page), plain.data() + offset, bytes), 0);
    }
}

TEST_F(PagedTensorTest, BudgetIsKeptAndNamedAndWhatWasWrittenStays) {
    PagedTensor tensor(arena_, 64, 640);  // ten pages of 4096 bytes
    PageArena::set_budget(PageArena::bytes_in_use() + 2 * 4096);
    const auto data = pattern(3 * 4096);
    const Status status = tensor.write(0, data.data(), data.size());
    ASSERT_EQ(status.code(), StatusCode::kOutOfMemory);
    EXPECT_NE(status.message().find("ATLAS_KV_RAM="), std::string::npos);
    std::vector<uint8_t> read(2 * 4096);
    tensor.read(0, read.data(), read.size());
    EXPECT_EQ(std::memcmp(read.data(), data.data(), read.size()), 0);
    tensor.clear();
    EXPECT_TRUE(tensor.write(0, data.data(), 2 * 4096).is_ok());
}

TEST_F(PagedTensorTest, AnUpdateTouchesOnlyPagesThatItChanges) {
    PagedTensor tensor(arena_, 64, 5 * kPageRows);
    const auto data = pattern(4096);
    ASSERT_TRUE(tensor.write(4096, data.data(), data.size()).is_ok());
    EXPECT_TRUE(tensor.is_unmade(0, 4096));
    EXPECT_FALSE(tensor.is_unmade(0, 4097));
    EXPECT_FALSE(tensor.is_unmade(4096, 8192));
    EXPECT_TRUE(tensor.is_unmade(8192, 3 * 4096));
    const uint64_t in_use = PageArena::bytes_in_use();
    std::vector<uint8_t> whole(tensor.bytes());
    tensor.read(0, whole.data(), whole.size());
    whole[2 * 4096 + 7] = 1;  // the page behind: does not exist yet
    std::vector<uint32_t> versions;
    for (int64_t page = 0; page < 5; ++page) versions.push_back(tensor.page_version(page));
    // Begins and ends inside of pages.
    ASSERT_TRUE(tensor.update(100, whole.data() + 100, whole.size() - 200).is_ok());
    EXPECT_EQ(PageArena::bytes_in_use(), in_use + 4096);
    for (int64_t page = 0; page < 5; ++page) {
        EXPECT_EQ(tensor.page_version(page) != versions[static_cast<size_t>(page)], page == 2) << page;
    }
    std::vector<uint8_t> read(whole.size());
    tensor.read(0, read.data(), read.size());
    EXPECT_EQ(read, whole);
}

TEST_F(PagedTensorTest, ReusedPagesAreZeroAgain) {
    PagedTensor tensor(arena_, 64, 64);
    const auto data = pattern(4096);
    ASSERT_TRUE(tensor.write(0, data.data(), data.size()).is_ok());
    const uint64_t generation = tensor.generation();
    tensor.clear();
    EXPECT_GT(tensor.generation(), generation);
    ASSERT_TRUE(tensor.write(0, data.data(), 1).is_ok());
    std::vector<uint8_t> read(4096);
    tensor.read(0, read.data(), read.size());
    EXPECT_EQ(read[0], data[0]);
    for (size_t i = 1; i < read.size(); ++i) ASSERT_EQ(read[i], 0);
}

}  // namespace
}  // namespace atlas::kv
