#include "kv/pager.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kv/page_table.h"

namespace atlas::kv {
namespace {

constexpr size_t kRow = 64;
constexpr size_t kPage = kRow * kPageRows;  // as much as a unit: 4096
constexpr int64_t kPages = 40;

uint8_t byte_of(int64_t page, size_t at, int generation) {
    return static_cast<uint8_t>(page * 31 + static_cast<int64_t>(at / 97) + generation * 101 + 1);
}

class PagerTest : public testing::Test {
protected:
    void open(uint64_t ram_pages, const std::string& faults = "", uint64_t disk_pages = 0, bool lru = false) {
        budget_.set_limit(ram_pages * kPage);
        std::unique_ptr<DiskTier> disk;
        ASSERT_TRUE(DiskTier::open({testing::TempDir(), disk_pages * kPage, faults, true}, &disk).is_ok());
        pager_ = std::make_unique<Pager>(budget_, std::move(disk), lru ? lru_policy() : score_policy());
        tier_ = std::make_unique<RamTier>(budget_, pager_.get());
        k_ = std::make_unique<PageTable>(*tier_, clock_, kRow, kPages * kPageRows);
        v_ = std::make_unique<PageTable>(*tier_, clock_, kRow, kPages * kPageRows);
    }

    static std::vector<uint8_t> contents(int64_t page, int generation = 0) {
        std::vector<uint8_t> bytes(kPage);
        for (size_t i = 0; i < kPage; ++i) bytes[i] = byte_of(page, i, generation);
        return bytes;
    }
    Status write(PageTable& table, int64_t page, int generation = 0) {
        const auto bytes = contents(page, generation);
        return table.write(static_cast<size_t>(page) * kPage, bytes.data(), kPage);
    }
    static bool holds(const std::byte* memory, int64_t page, int generation = 0) {
        return std::memcmp(memory, contents(page, generation).data(), kPage) == 0;
    }
    bool reads(const PageTable& table, int64_t page, int generation = 0) {
        std::vector<std::byte> bytes(kPage);
        const Status status = table.read(static_cast<size_t>(page) * kPage, bytes.data(), kPage);
        EXPECT_TRUE(status.is_ok()) << status.to_string();
        return holds(bytes.data(), page, generation);
    }
    int64_t resident(const PageTable& table) {
        int64_t n = 0;
        for (int64_t page = 0; page < kPages; ++page)
            n += table.is_resident(page) && !table.is_unmade(static_cast<size_t>(page) * kPage, kPage);
        return n;
    }

    Budget budget_;
    WriteClock clock_;
    std::unique_ptr<Pager> pager_;
    std::unique_ptr<RamTier> tier_;
    std::unique_ptr<PageTable> k_, v_;
};

TEST_F(PagerTest, HoldsManyTimesWhatMemoryHasRoomFor) {
    open(8);
    for (int64_t page = 0; page < kPages; ++page) {
        ASSERT_TRUE(write(*k_, page).is_ok());
        ASSERT_TRUE(write(*v_, page, 1).is_ok());
        ASSERT_LE(budget_.in_use(), budget_.limit());
    }
    EXPECT_LE(resident(*k_) + resident(*v_), 8);
    for (int64_t page = 0; page < kPages; ++page) {
        EXPECT_TRUE(reads(*k_, page)) << page;
        EXPECT_TRUE(reads(*v_, page, 1)) << page;
    }
    EXPECT_GT(pager_->stats().evictions, 60u);
    EXPECT_GT(pager_->stats().misses, 60u);
    EXPECT_LE(budget_.in_use(), budget_.limit());
}

TEST_F(PagerTest, PinsOfTwoTablesAreReadTogetherAndStayWhileHeld) {
    open(16);
    for (int64_t page = 0; page < kPages; ++page) {
        ASSERT_TRUE(write(*k_, page).is_ok());
        ASSERT_TRUE(write(*v_, page, 1).is_ok());
    }
    const PageRange ranges[] = {{0, 3}, {10, 2}};
    Pinned k, v;
    const PageTable::PinRequest requests[] = {{k_.get(), ranges, &k}, {v_.get(), ranges, &v}};
    const uint64_t waits = pager_->stats().waits;
    ASSERT_TRUE(PageTable::pin(requests, PinMode::kKeep).is_ok());
    EXPECT_EQ(pager_->stats().waits, waits + 1);
    for (int64_t page = 20; page < kPages; ++page) ASSERT_TRUE(reads(*k_, page));
    for (int64_t page = 20; page < kPages; ++page) ASSERT_TRUE(write(*v_, page, 2).is_ok());
    for (const int64_t page : {0, 1, 2, 10, 11}) {
        EXPECT_TRUE(k_->is_resident(page));
        EXPECT_TRUE(holds(k.page(page), page)) << page;
        EXPECT_TRUE(holds(v.page(page), page, 1)) << page;
    }
}

TEST_F(PagerTest, MoreThanMemoryCannotBePinnedAndTheTableGoesOn) {
    open(8);
    for (int64_t page = 0; page < kPages; ++page) ASSERT_TRUE(write(*k_, page).is_ok());
    Pinned pinned, other;
    const PageRange all{0, kPages}, most{0, 8}, last{kPages - 1, 1};
    ASSERT_TRUE(k_->pin({&last, 1}, &other).is_ok());
    for (const auto& [range, words] : {std::pair{all, "at once"}, {most, "all of it is needed at once"}}) {
        const Status status = k_->pin({&range, 1}, &pinned, range.count == 8 ? PinMode::kKeep : PinMode::kThrough);
        EXPECT_EQ(status.code(), StatusCode::kOutOfMemory);
        EXPECT_NE(status.message().find(words), std::string::npos) << status.message();
        EXPECT_FALSE(pinned.is_pinned(0));
    }
    other.unpin();
    EXPECT_LE(budget_.in_use(), budget_.limit());
    for (int64_t page = 0; page < kPages; ++page) EXPECT_TRUE(reads(*k_, page)) << page;
}

TEST_F(PagerTest, WhatIsReadThroughDisplacesNothingAndGoesWithItsPin) {
    open(8);
    for (int64_t page = 0; page < kPages; ++page) ASSERT_TRUE(write(*k_, page).is_ok());
    Pinned pinned;
    std::vector<int64_t> before;
    for (int round = 0; round < 5; ++round) {
        for (int64_t first = 0; first < kPages; first += 4) {
            const PageRange range{first, 4};
            ASSERT_TRUE(k_->pin({&range, 1}, &pinned, PinMode::kThrough).is_ok());
            for (int64_t page = first; page < first + 4; ++page) EXPECT_TRUE(holds(pinned.page(page), page));
        }
        std::vector<int64_t> now;
        for (int64_t page = 0; page < kPages; ++page) {
            if (k_->is_resident(page)) now.push_back(page);
        }
        // What is read ahead needs room of its own, which it has from the second round on.
        if (round > 2) {
            EXPECT_EQ(now, before);
        }
        before = now;
    }
    pinned.unpin();
    // What was read ahead goes as soon as something else is asked for.
    const PageRange first{0, 1}, last{kPages - 1, 1};
    for (const PageRange& range : {first, last}) ASSERT_TRUE(k_->pin({&range, 1}, &pinned).is_ok());
    pinned.unpin();
    EXPECT_EQ(budget_.in_use(), static_cast<uint64_t>(resident(*k_)) * kPage);
}

/** Reads through K and V in fours, as exact attention goes through layers. */
class PagerAheadTest : public PagerTest {
protected:
    void write_all() {
        for (int64_t page = 0; page < kPages; ++page) {
            ASSERT_TRUE(write(*k_, page).is_ok());
            ASSERT_TRUE(write(*v_, page, 1).is_ok());
        }
    }
    /** `generation`: of K's pages 8 … 11. */
    void go_through(int generation) {
        for (int64_t first = 0; first < kPages; first += 4) {
            const PageRange range{first, 4};
            Pinned k, v;
            const PageTable::PinRequest both[] = {{k_.get(), {&range, 1}, &k}, {v_.get(), {&range, 1}, &v}};
            const Status status = PageTable::pin(both, PinMode::kThrough);
            ASSERT_TRUE(status.is_ok()) << status.to_string();
            for (int64_t page = first; page < first + 4; ++page) {
                EXPECT_TRUE(holds(k.page(page), page, first == 8 ? generation : 0)) << page;
                EXPECT_TRUE(holds(v.page(page), page, 1)) << page;
            }
            EXPECT_LE(budget_.in_use(), budget_.limit());
        }
    }
};

TEST_F(PagerAheadTest, WhatFollowedTheLastTimeIsReadBeforeItIsAskedFor) {
    open(64);
    write_all();
    go_through(0);
    const PagerStats first = pager_->stats();
    go_through(0);
    go_through(0);
    const PagerStats all = pager_->stats();
    EXPECT_GT(all.ahead_hits, (all.misses - first.misses) / 2) << all.ahead_reads << " of " << all.misses;
    EXPECT_LE(all.ahead_hits, all.ahead_reads);
    EXPECT_EQ(all.disk.corrupt + all.disk.retries, 0u);
}

TEST_F(PagerAheadTest, WhatWasReadBeforeItWasWrittenIsNotTaken) {
    open(64);
    write_all();
    go_through(0);
    for (int round = 1; round < 20; ++round) {
        // Pages 8 … 11 are being read ahead when these end.
        for (int64_t first = 0; first < 8; first += 4) {
            const PageRange range{first, 4};
            Pinned k;
            ASSERT_TRUE(k_->pin({&range, 1}, &k, PinMode::kThrough).is_ok());
        }
        for (int64_t page = 8; page < 12; ++page) ASSERT_TRUE(write(*k_, page, round).is_ok());
        go_through(round);
    }
    EXPECT_EQ(pager_->stats().disk.corrupt + pager_->stats().disk.read_errors, 0u);
}

TEST_F(PagerAheadTest, WhatFailsAheadIsReadOnceMore) {
    open(64, "read_eio=0.05,flip_read=0.05,short_read=0.05,seed=3");
    write_all();
    for (int round = 0; round < 10; ++round) {
        for (int64_t first = 0; first < kPages; first += 4) {
            const PageRange range{first, 4};
            Pinned k;
            if (!k_->pin({&range, 1}, &k, PinMode::kThrough).is_ok()) continue;
            for (int64_t page = first; page < first + 4; ++page) EXPECT_TRUE(holds(k.page(page), page)) << page;
        }
    }
    const PagerStats stats = pager_->stats();
    EXPECT_GT(stats.ahead_hits, 50u);
    EXPECT_LT(stats.disk.read_errors, stats.misses / 20) << "what was tried once only was counted";
}

TEST_F(PagerTest, ResidentPinsReadNothing) {
    open(8);
    for (int64_t page = 0; page < kPages; ++page) ASSERT_TRUE(write(*k_, page).is_ok());
    const uint64_t misses = pager_->stats().misses;
    Pinned pinned;
    const PageRange cold{0, 1}, warm{kPages - 1, 1};
    ASSERT_FALSE(k_->is_resident(0));
    EXPECT_FALSE(k_->pin({&cold, 1}, &pinned, PinMode::kResident).is_ok());
    EXPECT_TRUE(k_->pin({&warm, 1}, &pinned, PinMode::kResident).is_ok());
    EXPECT_EQ(pager_->stats().misses, misses);
}

TEST_F(PagerTest, WhatIsChosenOftenStaysAndTheLatestOnceReadGoes) {
    for (const bool lru : {false, true}) {
        k_.reset(), v_.reset(), tier_.reset(), pager_.reset();
        open(8, "", 0, lru);
        for (int64_t page = 0; page < 8; ++page) ASSERT_TRUE(write(*k_, page).is_ok());
        const auto pin = [&](int64_t page) {
            Pinned pinned;
            const PageRange range{page, 1};
            ASSERT_TRUE(k_->pin({&range, 1}, &pinned, PinMode::kKeep).is_ok());
        };
        for (int i = 0; i < 10; ++i) {
            pin(2);
            pin(5);
        }
        for (int64_t page = 8; page < 24; ++page) ASSERT_TRUE(write(*k_, page).is_ok());
        for (int64_t page = 8; page < 24; ++page) pin(page);
        EXPECT_EQ(k_->is_resident(2) && k_->is_resident(5), !lru);
    }
}

TEST_F(PagerTest, AWrittenPageIsWrittenAnew) {
    open(4);
    for (int64_t page = 0; page < kPages; ++page) ASSERT_TRUE(write(*k_, page).is_ok());
    // A part of a cold page, a whole one, and one by a lease.
    ASSERT_FALSE(k_->is_resident(0));
    const uint8_t part[4] = {1, 2, 3, 4};
    const uint64_t version = k_->page_version(0);
    ASSERT_TRUE(k_->write(100, part, 4).is_ok());
    EXPECT_NE(k_->page_version(0), version);
    ASSERT_TRUE(write(*k_, 1, 5).is_ok());
    {
        WriteLease lease;
        ASSERT_TRUE(k_->lease(2 * kPage + 8, 2, &lease).is_ok());
        lease.data()[0] = std::byte{77};
        // It stays where it is, whatever else needs room.
        for (int64_t page = 10; page < kPages; ++page) ASSERT_TRUE(reads(*k_, page));
        lease.data()[1] = std::byte{78};
    }
    for (int64_t page = 10; page < kPages; ++page) ASSERT_TRUE(write(*v_, page).is_ok());
    auto zero = contents(0);
    std::copy_n(part, 4, zero.begin() + 100);
    auto two = contents(2);
    two[8] = 77;
    two[9] = 78;
    std::vector<uint8_t> read(kPage);
    ASSERT_TRUE(k_->read(0, read.data(), kPage).is_ok());
    EXPECT_EQ(read, zero);
    EXPECT_TRUE(reads(*k_, 1, 5));
    ASSERT_TRUE(k_->read(2 * kPage, read.data(), kPage).is_ok());
    EXPECT_EQ(read, two);
}

TEST_F(PagerTest, RemovalGivesMemoryAndDiskBack) {
    open(4);
    for (int64_t page = 0; page < kPages; ++page) ASSERT_TRUE(write(*k_, page).is_ok());
    EXPECT_GT(pager_->stats().disk.in_use, 30 * kPage);
    const PageRange some{0, 20};
    k_->release({&some, 1});
    EXPECT_TRUE(k_->is_unmade(0, 20 * kPage));
    EXPECT_LE(pager_->stats().disk.in_use, 20 * kPage);
    k_->clear();
    EXPECT_EQ(pager_->stats().disk.in_use, 0u);
    EXPECT_EQ(budget_.in_use(), 0u);
    std::vector<uint8_t> read(kPage, 1);
    ASSERT_TRUE(k_->read(5 * kPage, read.data(), kPage).is_ok());
    EXPECT_EQ(read, std::vector<uint8_t>(kPage, 0));
}

TEST_F(PagerTest, CopiesOfColdPagesAndOfSharedOnes) {
    open(6);
    for (int64_t page = 0; page < 20; ++page) ASSERT_TRUE(write(*k_, page).is_ok());
    ASSERT_TRUE(k_->copy(20 * kPage, *k_, 0, 20 * kPage).is_ok());
    ASSERT_TRUE(v_->copy(0, *k_, 0, 20 * kPage).is_ok());
    ASSERT_TRUE(write(*k_, 3, 9).is_ok());
    const uint8_t part = 55;
    ASSERT_TRUE(k_->write(25 * kPage, &part, 1).is_ok());
    for (int64_t page = 0; page < 20; ++page) {
        EXPECT_TRUE(reads(*k_, page, page == 3 ? 9 : 0)) << page;
        EXPECT_TRUE(reads(*v_, page)) << page;
        std::vector<std::byte> copy(kPage);
        ASSERT_TRUE(k_->read(static_cast<size_t>(20 + page) * kPage, copy.data(), kPage).is_ok());
        if (page == 5) copy[0] = static_cast<std::byte>(byte_of(5, 0, 0));
        EXPECT_TRUE(holds(copy.data(), page)) << page;
    }
    EXPECT_LE(budget_.in_use(), budget_.limit());
}

TEST_F(PagerTest, AFullDiskRefusesAndLosesNothing) {
    for (const char* faults : {"", "write_eio=1", "write_enospc=1", "grow_enospc=1"}) {
        k_.reset(), v_.reset(), tier_.reset(), pager_.reset();
        open(8, faults, *faults ? 0 : 6);
        int64_t written = 0;
        Status status;
        while (written < kPages && status.is_ok()) {
            status = write(*k_, written);
            written += status.is_ok();
        }
        EXPECT_EQ(status.code(), StatusCode::kOutOfMemory) << faults;
        EXPECT_NE(status.message().find(*faults ? "errno" : "ATLAS_KV_DISK_LIMIT=" + std::to_string(6 * kPage)),
                  std::string::npos)
            << status.message();
        EXPECT_NE(status.message().find(pager_->disk().path()), std::string::npos) << status.message();
        // Of a full disk a page of memory is left to read with.
        EXPECT_EQ(written, *faults ? 8 : 13) << faults;
        // What is in memory and on disk is all there, and can be read and given back.
        for (int64_t page = 0; page < written; ++page) EXPECT_TRUE(reads(*k_, page)) << page;
        EXPECT_TRUE(k_->is_damaged());  // the write that was refused
        k_->clear();
        EXPECT_TRUE(write(*k_, 0).is_ok());
    }
}

TEST_F(PagerTest, ReadErrorsFailThePinAndNothingElse) {
    open(8, "read_eio=0.5,flip_read=0.2,seed=3");
    for (int64_t page = 0; page < kPages; ++page) ASSERT_TRUE(write(*k_, page).is_ok());
    int failed = 0;
    for (int round = 0; round < 5; ++round) {
        for (int64_t page = 0; page < kPages; ++page) {
            Pinned pinned;
            const PageRange range{page, 1};
            const Status status = k_->pin({&range, 1}, &pinned, PinMode::kKeep);
            if (status.is_ok()) {
                EXPECT_TRUE(holds(pinned.page(page), page)) << page;
            } else {
                ++failed;
                EXPECT_TRUE(status.code() == StatusCode::kIo || status.code() == StatusCode::kCorrupt);
                EXPECT_FALSE(pinned.is_pinned(page));
            }
        }
    }
    EXPECT_GT(failed, 10);
    EXPECT_LT(failed, 5 * kPages);
    EXPECT_LE(budget_.in_use(), budget_.limit());
}

TEST_F(PagerTest, ReservedPagesStayForTheirWriters) {
    open(8);
    for (int64_t page = 0; page < kPages; ++page) ASSERT_TRUE(write(*k_, page).is_ok());
    Pinned held;
    const PageRange range{0, 4};
    ASSERT_TRUE(k_->reserve({&range, 1}, &held).is_ok());
    for (int64_t page = 10; page < kPages; ++page) ASSERT_TRUE(reads(*k_, page));
    for (int64_t page = 0; page < 4; ++page) EXPECT_TRUE(k_->is_reserved(page)) << page;
    const PageRange many{0, 9};
    Pinned more;
    EXPECT_EQ(v_->reserve({&many, 1}, &more).code(), StatusCode::kOutOfMemory);
}

TEST_F(PagerTest, OthersThatUseTheBudgetAreGivenRoom) {
    open(8);
    for (int64_t page = 0; page < 8; ++page) ASSERT_TRUE(write(*k_, page).is_ok());
    EXPECT_FALSE(budget_.reserve(3 * kPage));
    EXPECT_TRUE(budget_.reserve_or_relieve(3 * kPage));
    EXPECT_LE(resident(*k_), 5);
    for (int64_t page = 0; page < 8; ++page) EXPECT_TRUE(reads(*k_, page));
    budget_.release(3 * kPage);
}

TEST_F(PagerTest, AnythingInAnyOrder) {
    open(10, "read_eio=0.02,short_read=0.02,short_write=0.02,flip_read=0.02,write_eio=0.01,seed=11");
    std::mt19937 random(4);
    std::vector<int> k(kPages, -1), v(kPages, -1);
    int generation = 0, failed = 0;
    for (int step = 0; step < 20000; ++step) {
        clock_.advance();
        PageTable& table = random() % 2 ? *k_ : *v_;
        std::vector<int>& is = &table == k_.get() ? k : v;
        const auto page = static_cast<int64_t>(random() % kPages);
        const auto at = static_cast<size_t>(page);
        switch (random() % 6) {
            case 0:
                generation = generation % 90 + 1;
                if (write(table, page, generation).is_ok()) {
                    is[at] = generation;
                } else {
                    is[at] = -2;
                }
                break;
            case 1: {
                const PageRange range{page, 1};
                if (random() % 4 == 0) {
                    table.release({&range, 1});
                    is[at] = -1;
                }
                break;
            }
            default: {
                const int64_t count = std::min<int64_t>(kPages - page, 1 + static_cast<int64_t>(random() % 4));
                const PageRange range{page, count};
                Pinned pinned;
                if (!table.pin({&range, 1}, &pinned, random() % 2 ? PinMode::kKeep : PinMode::kThrough).is_ok()) {
                    ++failed;
                    break;
                }
                for (int64_t i = page; i < page + count; ++i) {
                    const int expected = is[static_cast<size_t>(i)];
                    if (expected >= 0) {
                        ASSERT_TRUE(holds(pinned.page(i), i, expected)) << "step " << step << " page " << i;
                    } else if (expected == -1) {
                        ASSERT_EQ(pinned.page(i)[17], std::byte{0}) << "step " << step << " page " << i;
                    }
                }
            }
        }
        ASSERT_LE(budget_.in_use(), budget_.limit());
    }
    EXPECT_LT(failed, 200);
    EXPECT_GT(pager_->stats().misses, 5000u);
}

}  // namespace
}  // namespace atlas::kv
