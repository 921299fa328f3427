#include "kv/key_rows.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "kv/page_table.h"
#include "kv/pager.h"

namespace atlas::kv {
namespace {

constexpr int64_t kHeads = 3;
constexpr size_t kK = 128, kV = 64;  // bytes of a head's row
constexpr int64_t kPages = 24;
constexpr size_t kKPage = kHeads * kK * kPageRows, kVPage = kHeads * kV * kPageRows;
const KeyRows::Shape kShape{kHeads, kK, kV};

std::byte byte_of(int64_t page, size_t at, int generation, bool v) {
    return static_cast<std::byte>(at * 7 + static_cast<size_t>(page) * 31 + static_cast<size_t>(generation) * 101 +
                                  at / 64 + (v ? 128 : 0));
}

/** Two tables of pages whose bytes tell page, place and generation, and the rows of their keys. */
class KeyRowsTest : public testing::Test {
protected:
    void open(uint64_t ram, const std::string& faults = "", uint64_t disk = 0) {
        rows_ = nullptr;
        k_.reset(), v_.reset(), tier_.reset(), pager_.reset();
        budget_.set_limit(ram);
        std::unique_ptr<DiskTier> file;
        ASSERT_TRUE(DiskTier::open({testing::TempDir(), disk, faults, true}, &file).is_ok());
        pager_ = std::make_unique<Pager>(budget_, std::move(file), score_policy());
        tier_ = std::make_unique<RamTier>(budget_, pager_.get());
        k_ = std::make_unique<PageTable>(*tier_, clock_, kHeads * kK, kPages * kPageRows);
        v_ = std::make_unique<PageTable>(*tier_, clock_, kHeads * kV, kPages * kPageRows);
        rows_ = k_->key_rows(*v_, kShape);
        ASSERT_NE(rows_, nullptr);
    }
    bool write(int64_t page, int generation) {
        std::vector<std::byte> k(kKPage), v(kVPage);
        for (size_t i = 0; i < kKPage; ++i) k[i] = byte_of(page, i, generation, false);
        for (size_t i = 0; i < kVPage; ++i) v[i] = byte_of(page, i, generation, true);
        clock_.advance();
        generations_[static_cast<size_t>(page)] = generation;
        return k_->write(static_cast<size_t>(page) * kKPage, k.data(), kKPage).is_ok() &&
               v_->write(static_cast<size_t>(page) * kVPage, v.data(), kVPage).is_ok();
    }
    void write_all() {
        for (int64_t page = 0; page < kPages; ++page) ASSERT_TRUE(write(page, 1));
    }
    KeyRows::Version version(int64_t page) const { return {k_->page_version(page), v_->page_version(page)}; }
    bool is_stored(int64_t page) const { return rows_->is_stored(page, version(page)); }
    /** As attention does it: pages from where they are, then their rows. */
    bool store(int64_t page) {
        const PageRange range{page, 1};
        Pinned k, v;
        const PageTable::PinRequest requests[] = {{k_.get(), {&range, 1}, &k}, {v_.get(), {&range, 1}, &v}};
        if (!PageTable::pin(requests, PinMode::kAside).is_ok()) return false;
        rows_->store(page, version(page), {k.page(page), kK, kHeads * kK}, {v.page(page), kV, kHeads * kV});
        return is_stored(page);
    }
    void store_all() {
        for (int64_t page = 0; page < kPages; ++page) ASSERT_TRUE(store(page)) << page;
    }
    bool holds(const std::byte* row, int64_t page, int64_t head, size_t cell) const {
        const int generation = generations_[static_cast<size_t>(page)];
        for (size_t i = 0; i < kK; ++i) {
            if (row[i] != byte_of(page, (cell * kHeads + static_cast<size_t>(head)) * kK + i, generation, false))
                return false;
        }
        for (size_t i = 0; i < kV; ++i) {
            if (row[kK + i] != byte_of(page, (cell * kHeads + static_cast<size_t>(head)) * kV + i, generation, true))
                return false;
        }
        return true;
    }
    void expect_holds(const PinnedRows& pinned, std::span<const KeyRows::Wanted> wanted) const {
        size_t i = 0;
        for (const KeyRows::Wanted& part : wanted) {
            for (uint64_t left = part.cells; left != 0; left &= left - 1)
                ASSERT_TRUE(holds(pinned.row(i++), part.page, part.head, static_cast<size_t>(std::countr_zero(left))))
                    << "page " << part.page << " head " << part.head << " cell " << std::countr_zero(left);
        }
    }
    Status pin(std::initializer_list<KeyRows::Wanted> wanted, PinnedRows* out) {
        Status status = rows_->pin({wanted.begin(), wanted.size()}, out);
        if (status.is_ok()) expect_holds(*out, {wanted.begin(), wanted.size()});
        return status;
    }
    PagerStats stats() const { return pager_->stats(); }

    Budget budget_;
    WriteClock clock_;
    std::unique_ptr<Pager> pager_;
    std::unique_ptr<RamTier> tier_;
    std::unique_ptr<PageTable> k_, v_;
    KeyRows* rows_ = nullptr;
    std::array<int, kPages> generations_{};
};

TEST_F(KeyRowsTest, ReadsWhatIsMissingAndKeepsItKeyByKey) {
    open(14 * kKPage);
    write_all();
    store_all();
    const auto before = stats();
    PinnedRows pinned;
    ASSERT_TRUE(pin({{0, 0, 0b1001}, {0, 2, 1}, {7, 1, uint64_t{1} << 63}}, &pinned).is_ok());
    EXPECT_EQ(stats().row_misses, before.row_misses + 4);
    EXPECT_EQ(stats().row_reads, before.row_reads + 3);
    EXPECT_EQ(stats().waits, before.waits + 1);
    EXPECT_EQ(stats().disk.read_bytes, before.disk.read_bytes + 3 * 4096);
    // A neighbour of a key that was read was not wanted, and is not kept.
    ASSERT_TRUE(pin({{0, 0, 0b1101}, {7, 1, uint64_t{1} << 63}}, &pinned).is_ok());
    EXPECT_EQ(stats().row_hits, before.row_hits + 3);
    EXPECT_EQ(stats().row_reads, before.row_reads + 4);
    EXPECT_LE(budget_.in_use(), budget_.limit());
}

TEST_F(KeyRowsTest, AKeyThatSeveralTokensWantIsReadOnce) {
    open(14 * kKPage);
    write_all();
    store_all();
    const auto before = stats();
    PinnedRows pinned;
    ASSERT_TRUE(pin({{3, 0, 0b11}, {5, 0, 0b1}, {3, 0, 0b10}, {5, 0, 0b1}}, &pinned).is_ok());
    EXPECT_EQ(stats().row_misses, before.row_misses + 3);
    EXPECT_EQ(pinned.row(1), pinned.row(3));
    EXPECT_EQ(pinned.row(2), pinned.row(4));
    pinned.unpin();
    ASSERT_TRUE(pin({{3, 0, 0b11}, {5, 0, 0b1}}, &pinned).is_ok());
    EXPECT_EQ(stats().row_reads, before.row_reads + 2);
}

TEST_F(KeyRowsTest, RowsOfAPinnedPageAreCopiedAndThereWhenItHasLeft) {
    open(14 * kKPage);
    write_all();
    store_all();
    const PageRange range{4, 1};
    Pinned k, v;
    ASSERT_TRUE(k_->pin({&range, 1}, &k, PinMode::kAside).is_ok());
    ASSERT_TRUE(v_->pin({&range, 1}, &v, PinMode::kAside).is_ok());
    const KeyRows::Source k_rows{k.page(4), kK, kHeads * kK}, v_rows{v.page(4), kV, kHeads * kV};
    const auto before = stats();
    PinnedRows pinned;
    ASSERT_TRUE(pin({{4, 1, 0b101, &k_rows, &v_rows}}, &pinned).is_ok());
    k.unpin(), v.unpin(), pinned.unpin();
    ASSERT_TRUE(pin({{4, 1, 0b101}}, &pinned).is_ok());
    EXPECT_EQ(stats().row_misses, before.row_misses);
    EXPECT_EQ(stats().row_reads, before.row_reads);
}

TEST_F(KeyRowsTest, APageThatIsWrittenIsNotStoredUntilItIsAgain) {
    open(14 * kKPage);
    write_all();
    store_all();
    PinnedRows pinned;
    ASSERT_TRUE(pin({{2, 1, 0xFF}}, &pinned).is_ok());
    pinned.unpin();
    const uint64_t in_use = stats().disk.in_use;
    constexpr int kTimes = 10;
    for (int i = 0; i < kTimes; ++i) {
        ASSERT_TRUE(write(2, 5 + i));
        EXPECT_FALSE(is_stored(2));
        ASSERT_TRUE(store(2));
        ASSERT_TRUE(pin({{2, 1, 0xFF}}, &pinned).is_ok());
        pinned.unpin();
    }
    // How many pages are on disk beside their memory depends on how fast it writes; rows that were left there would be kTimes pages.
    EXPECT_LT(stats().disk.in_use, in_use + kTimes / 2 * (kKPage + kVPage));
    // V alone counts, too.
    const std::byte one{1};
    ASSERT_TRUE(v_->write(3 * kVPage + 5, &one, 1).is_ok());
    EXPECT_FALSE(is_stored(3));
}

TEST_F(KeyRowsTest, ClearingGivesMemoryAndDiskBack) {
    open(14 * kKPage);
    write_all();
    store_all();
    PinnedRows pinned;
    ASSERT_TRUE(pin({{2, 1, 0xFF}}, &pinned).is_ok());
    pinned.unpin();
    EXPECT_GT(stats().row_bytes, 0u);
    k_->clear();
    v_->clear();
    pager_->exclusive(), pager_->finish_all_writes();
    for (int64_t page = 0; page < kPages; ++page) EXPECT_FALSE(is_stored(page));
    EXPECT_EQ(stats().disk.in_use, 0u);
}

TEST_F(KeyRowsTest, KeysThatAreReadOftenStay) {
    open(12 * kKPage);
    write_all();
    store_all();
    PinnedRows pinned;
    for (int i = 0; i < 8; ++i) ASSERT_TRUE(pin({{0, 0, 0xF}}, &pinned).is_ok());
    // Many more than there is room for, each once.
    constexpr uint64_t kAll = ~uint64_t{0};
    for (int64_t page = 1; page < kPages; ++page)
        ASSERT_TRUE(pin({{page, 0, kAll}, {page, 1, kAll}, {page, 2, kAll}}, &pinned).is_ok());
    const uint64_t before = stats().row_misses;
    ASSERT_TRUE(pin({{0, 0, 0xF}}, &pinned).is_ok());
    EXPECT_EQ(stats().row_misses, before);
    ASSERT_TRUE(pin({{1, 0, 0xF}}, &pinned).is_ok());
    EXPECT_EQ(stats().row_misses, before + 4);
}

TEST_F(KeyRowsTest, MoreThanMemoryHoldsIsRefusedAndLeavesNothingPinned) {
    open(8 * kKPage);
    write_all();
    store_all();
    std::vector<KeyRows::Wanted> all;
    for (int64_t page = 0; page < kPages; ++page) all.push_back({page, 0, ~uint64_t{0}});
    PinnedRows pinned;
    EXPECT_EQ(rows_->pin(all, &pinned).code(), StatusCode::kOutOfMemory);
    ASSERT_TRUE(pin({{0, 0, 0xF}, {9, 2, 0xF0}}, &pinned).is_ok());
    pinned.unpin();
    // Pages get the memory of rows that nobody holds.
    const PageRange some{0, 6};
    Pinned pages;
    EXPECT_TRUE(k_->pin({&some, 1}, &pages, PinMode::kKeep).is_ok());
}

TEST_F(KeyRowsTest, FailingReadsFailThePinAndTheirPageIsAbsentUntilItIsStoredAgain) {
    open(14 * kKPage, "read_eio=0.3,flip_read=0.3,seed=5");
    write_all();
    const auto store_well = [&](int64_t page) {
        for (int i = 0; i < 100 && !is_stored(page); ++i) store(page);
        ASSERT_TRUE(is_stored(page));
    };
    int failed = 0, good = 0;
    for (int i = 0; i < 200; ++i) {
        PinnedRows pinned;
        const int64_t page = i % kPages, other = i * 7 % kPages;
        store_well(page);
        store_well(other);
        const Status status = pin({{page, 0, uint64_t{0x0F} << i % 60}, {other, 1, 1}}, &pinned);
        (status.is_ok() ? good : failed)++;
        if (!status.is_ok()) {
            EXPECT_FALSE(is_stored(page) && is_stored(other));
            EXPECT_TRUE(status.code() == StatusCode::kIo || status.code() == StatusCode::kCorrupt)
                << status.to_string();
        }
    }
    EXPECT_GT(failed, 10);
    EXPECT_GT(good, 10);
}

TEST_F(KeyRowsTest, RowsDoNotTakeThePlaceOfPagesOnDisk) {
    // Room for all pages, and for the rows of two.
    const uint64_t region = kHeads * kPageRows * 192 + 3 * 4096;
    open(14 * kKPage, "", kPages * (kKPage + kVPage) + 2 * region);
    write_all();
    int stored = 0;
    for (int64_t page = 0; page < kPages; ++page) stored += store(page);
    EXPECT_GT(stored, 0);
    EXPECT_LT(stored, 3);
    for (int64_t page = 0; page < kPages; ++page) ASSERT_TRUE(write(page, 2)) << page;
    EXPECT_EQ(stats().refusals, 0u);
}

TEST_F(KeyRowsTest, FailingWritesLeavePagesAsTheyAre) {
    open(80 * kKPage, "write_eio=1");
    write_all();
    PinnedRows pinned;
    ASSERT_TRUE(store(0));
    EXPECT_FALSE(pin({{0, 0, 1}}, &pinned).is_ok());
    EXPECT_FALSE(is_stored(0));
    const PageRange range{0, 1};
    Pinned page;
    EXPECT_TRUE(k_->pin({&range, 1}, &page, PinMode::kAside).is_ok());
}

TEST_F(KeyRowsTest, AnythingInAnyOrder) {
    open(11 * kKPage);
    write_all();
    std::mt19937 random(7);
    int pinned_rows = 0;
    std::vector<PinnedRows> held(2);
    for (int step = 0; step < 6000; ++step) {
        const auto page = static_cast<int64_t>(random() % kPages);
        switch (random() % 12) {
            case 0:
                for (PinnedRows& rows : held) rows.unpin();
                ASSERT_TRUE(write(page, 1 + step % 90));
                break;
            case 1: {
                Pinned pages;
                const PageRange range{page, std::min<int64_t>(3, kPages - page)};
                ASSERT_TRUE((random() % 2 ? *k_ : *v_).pin({&range, 1}, &pages, PinMode::kKeep).is_ok());
                break;
            }
            default: {
                std::vector<KeyRows::Wanted> wanted;
                for (int i = 0; i < 4; ++i) {
                    const auto at = static_cast<int64_t>(random() % kPages);
                    if (!is_stored(at)) {
                        held[0].unpin(), held[1].unpin();
                        ASSERT_TRUE(store(at));
                    }
                    const uint64_t cells =
                        (uint64_t{random()} << 32 | random()) & (uint64_t{random()} << 32 | random());
                    if (cells != 0) wanted.push_back({at, static_cast<int64_t>(random() % kHeads), cells});
                }
                PinnedRows& rows = held[random() % 2];
                const Status status = rows_->pin(wanted, &rows);
                ASSERT_TRUE(status.is_ok()) << status.to_string();
                expect_holds(rows, wanted);
                if (HasFatalFailure()) return;
                pinned_rows += static_cast<int>(wanted.size());
            }
        }
        ASSERT_LE(budget_.in_use(), budget_.limit());
    }
    EXPECT_GT(pinned_rows, 10000);
    EXPECT_GT(stats().row_hits, 10000u);
}

}  // namespace
}  // namespace atlas::kv
