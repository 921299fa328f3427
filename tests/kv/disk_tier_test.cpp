#include "kv/disk_tier.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "../io/no_direct.h"
#include "io/faulty_io.h"

namespace atlas::kv {
namespace {

constexpr size_t kUnit = 2 * io::kIoAlignment;

struct Free {
    void operator()(std::byte* memory) const { ::operator delete[](memory, std::align_val_t{io::kIoAlignment}); }
};
using Memory = std::unique_ptr<std::byte[], Free>;

Memory memory_of(size_t bytes) {
    return Memory(static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{io::kIoAlignment})));
}

class Folder {
public:
    Folder() {
        char name[] = "/var/tmp/atlas-disk-test-XXXXXX";
        path_ = mkdtemp(name);
    }
    ~Folder() { std::filesystem::remove_all(path_); }
    const std::string& path() const { return path_; }
    bool is_empty() const { return std::filesystem::is_empty(path_); }

private:
    std::string path_;
};

/** With io_uring and without: both must do the same. */
class DiskTierTest : public testing::TestWithParam<bool> {
protected:
    Status open(const std::string& faults = "", uint64_t limit = 0) {
        disk_.reset();
        return DiskTier::open({folder_.path(), limit, faults, GetParam()}, &disk_);
    }

    /** Writes a unit full of `value`; its status. */
    Status write(uint8_t value, DiskUnit* unit) {
        if (Status status = disk_->allocate(kUnit, unit); !status.is_ok()) return status;
        Memory memory = memory_of(kUnit);
        for (size_t i = 0; i < kUnit; ++i) memory[i] = static_cast<std::byte>(value + i / 512);
        unit->checksum = DiskTier::checksum(memory.get(), kUnit, unit->offset);
        UnitTransfer transfer;
        transfer.unit = *unit;
        transfer.memory = memory.get();
        transfer.bytes = kUnit;
        disk_->begin_write(&transfer);
        std::vector<UnitTransfer*> done;
        while (done.empty()) disk_->finish_writes(true, &done);
        return done.front()->status;
    }

    Status read(uint8_t value, const DiskUnit& unit) {
        Memory memory = memory_of(kUnit);
        UnitTransfer transfer;
        transfer.unit = unit;
        transfer.memory = memory.get();
        transfer.bytes = kUnit;
        UnitTransfer* pointer = &transfer;
        disk_->read({&pointer, 1});
        if (transfer.status.is_ok()) {
            for (size_t i = 0; i < kUnit; ++i)
                EXPECT_EQ(memory[i], static_cast<std::byte>(value + i / 512))
                    << "byte " << i << " of what was read without an error";
        }
        return transfer.status;
    }

    /** Reads and writes many units; how many of each failed. What does not fail must be right. */
    void run(int rounds, int* failed_writes, int* failed_reads) {
        *failed_writes = *failed_reads = 0;
        for (int i = 0; i < rounds; ++i) {
            DiskUnit unit;
            const auto value = static_cast<uint8_t>(i * 7 + 1);
            if (!write(value, &unit).is_ok()) {
                ++*failed_writes;
                continue;
            }
            *failed_reads += !read(value, unit).is_ok();
        }
    }

    Folder folder_;
    std::unique_ptr<DiskTier> disk_;
};

INSTANTIATE_TEST_SUITE_P(Io, DiskTierTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "uring" : "plain"; });

TEST_P(DiskTierTest, GivesBackWhatWasWrittenAndLeavesNoFile) {
    ASSERT_TRUE(open().is_ok());
    EXPECT_TRUE(folder_.is_empty());
    int writes = 0, reads = 0;
    run(50, &writes, &reads);
    EXPECT_EQ(writes + reads, 0);
    const DiskStats stats = disk_->stats();
    EXPECT_EQ(stats.reads, 50u);
    EXPECT_EQ(stats.read_bytes, 50 * kUnit);
    EXPECT_EQ(stats.writes, 50u);
    EXPECT_EQ(stats.in_use, 50 * kUnit);
}

TEST_P(DiskTierTest, AFolderWithoutDirectTransfersWillDo) {
    {
        const io::NoDirect none;
        ASSERT_TRUE(open().is_ok());
    }
    EXPECT_FALSE(disk_->is_direct());
    EXPECT_TRUE(folder_.is_empty());
    int writes = 0, reads = 0;
    run(50, &writes, &reads);
    EXPECT_EQ(writes + reads, 0);
    EXPECT_EQ(disk_->stats().read_bytes, 50 * kUnit);
}

TEST_P(DiskTierTest, ManyReadsAtOnce) {
    ASSERT_TRUE(open().is_ok());
    constexpr size_t kMany = 500;  // more than the ring takes
    std::vector<DiskUnit> units(kMany);
    for (size_t i = 0; i < kMany; ++i) ASSERT_TRUE(write(static_cast<uint8_t>(i), &units[i]).is_ok());
    Memory memory = memory_of(kMany * kUnit);
    std::vector<UnitTransfer> transfers(kMany);
    std::vector<UnitTransfer*> pointers;
    for (size_t i = 0; i < kMany; ++i) {
        transfers[i].unit = units[(i * 37) % kMany];
        transfers[i].memory = memory.get() + i * kUnit;
        transfers[i].bytes = kUnit;
        pointers.push_back(&transfers[i]);
    }
    disk_->read(pointers);
    for (size_t i = 0; i < kMany; ++i) {
        ASSERT_TRUE(transfers[i].status.is_ok());
        ASSERT_EQ(transfers[i].memory[0], static_cast<std::byte>((i * 37) % kMany)) << i;
    }
}

TEST_P(DiskTierTest, PlacesAreUsedAgainAndTheLimitHolds) {
    ASSERT_TRUE(open("", 10 * kUnit).is_ok());
    std::vector<DiskUnit> units(10);
    for (DiskUnit& unit : units) ASSERT_TRUE(disk_->allocate(kUnit, &unit).is_ok());
    DiskUnit more;
    const Status full = disk_->allocate(kUnit, &more);
    EXPECT_EQ(full.code(), StatusCode::kOutOfMemory);
    EXPECT_NE(full.message().find("ATLAS_KV_DISK_LIMIT=" + std::to_string(10 * kUnit)), std::string::npos)
        << full.message();
    disk_->release(units[3], kUnit);
    ASSERT_TRUE(disk_->allocate(kUnit, &more).is_ok());
    EXPECT_EQ(more.offset, units[3].offset);
    // Once all is given back, units of another size find room.
    for (const DiskUnit& unit : units) disk_->release(unit, kUnit);
    EXPECT_EQ(disk_->stats().in_use, 0u);
    EXPECT_TRUE(disk_->allocate(10 * kUnit, &more).is_ok());
    EXPECT_LE(disk_->stats().file_bytes, 10 * kUnit);
}

TEST_P(DiskTierTest, ReadErrorsAreTriedOnceMoreAndTold) {
    ASSERT_TRUE(open("read_eio=1").is_ok());
    DiskUnit unit;
    ASSERT_TRUE(write(1, &unit).is_ok());
    const Status status = read(1, unit);
    EXPECT_EQ(status.code(), StatusCode::kIo);
    for (const std::string& part : {"read of " + std::to_string(kUnit) + " bytes at " + std::to_string(unit.offset),
                                    disk_->path(), std::string("errno 5")})
        EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
    EXPECT_EQ(disk_->stats().retries, 1u);
    EXPECT_EQ(disk_->stats().read_errors, 1u);
    // Errors that pass do no harm.
    ASSERT_TRUE(open("read_eio=0.2,seed=5").is_ok());
    int writes = 0, reads = 0;
    run(100, &writes, &reads);
    EXPECT_EQ(writes, 0);
    EXPECT_LT(reads, 20);
    EXPECT_GT(disk_->stats().retries, 10u);
}

TEST_P(DiskTierTest, WriteErrorsAreTold) {
    for (const auto& [fault, number] : {std::pair{"write_eio=1", "errno 5"}, {"write_enospc=1", "errno 28"}}) {
        ASSERT_TRUE(open(fault).is_ok());
        DiskUnit unit;
        const Status status = write(1, &unit);
        EXPECT_EQ(status.code(), StatusCode::kIo);
        EXPECT_NE(status.message().find("write of"), std::string::npos) << status.message();
        EXPECT_NE(status.message().find(number), std::string::npos) << status.message();
        EXPECT_EQ(disk_->stats().write_errors, 1u);
    }
    ASSERT_TRUE(open("grow_enospc=1").is_ok());
    DiskUnit unit;
    const Status status = disk_->allocate(kUnit, &unit);
    EXPECT_EQ(status.code(), StatusCode::kIo);
    EXPECT_NE(status.message().find("errno 28"), std::string::npos) << status.message();
}

TEST_P(DiskTierTest, ShortTransfersGoOn) {
    ASSERT_TRUE(open("short_read=0.5,short_write=0.5").is_ok());
    int writes = 0, reads = 0;
    run(100, &writes, &reads);
    // One of one block has no half: it is none, and fails; what did not fail was compared.
    EXPECT_LT(writes, 60);
    EXPECT_LT(reads, 40);
    EXPECT_LT(writes + reads, 90);
}

TEST_P(DiskTierTest, WhatIsNotWhatWasWrittenIsNeverGiven) {
    for (const char* fault : {"torn_write=1", "flip_write=1", "flip_read=1"}) {
        // A torn write of a new file leaves what was probed there, or zeros.
        ASSERT_TRUE(open(fault).is_ok());
        int writes = 0, reads = 0;
        run(20, &writes, &reads);
        EXPECT_EQ(writes, 0) << fault;
        EXPECT_EQ(reads, 20) << fault;
        EXPECT_EQ(disk_->stats().corrupt, 40u) << fault;  // each once more
        DiskUnit unit;
        ASSERT_TRUE(write(9, &unit).is_ok());
        EXPECT_EQ(read(9, unit).code(), StatusCode::kCorrupt);
    }
    // A read that goes wrong only once is made good.
    ASSERT_TRUE(open("flip_read=0.1,seed=2").is_ok());
    int writes = 0, reads = 0;
    run(100, &writes, &reads);
    EXPECT_GT(disk_->stats().corrupt, 3u);
    EXPECT_LT(reads, 6);
}

TEST_P(DiskTierTest, AUnitElsewhereIsNotTakenForIt) {
    ASSERT_TRUE(open().is_ok());
    DiskUnit one, other;
    ASSERT_TRUE(write(5, &one).is_ok());
    ASSERT_TRUE(write(5, &other).is_ok());
    one.offset = other.offset;
    EXPECT_EQ(read(5, one).code(), StatusCode::kCorrupt);
}

TEST_P(DiskTierTest, ADeviceThatHangsIsWaitedFor) {
    ASSERT_TRUE(open("hang=1,hang_ms=50").is_ok());
    const auto begin = std::chrono::steady_clock::now();
    DiskUnit unit;
    ASSERT_TRUE(write(3, &unit).is_ok());
    EXPECT_TRUE(read(3, unit).is_ok());
    EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(100));
}

TEST_P(DiskTierTest, TheFolderMayVanishAndBeShared) {
    ASSERT_TRUE(open().is_ok());
    std::unique_ptr<DiskTier> second;
    ASSERT_TRUE(DiskTier::open({folder_.path(), 0, "", GetParam()}, &second).is_ok());
    std::filesystem::remove_all(folder_.path());
    int writes = 0, reads = 0;
    run(5, &writes, &reads);
    std::swap(disk_, second);
    run(5, &writes, &reads);
    EXPECT_EQ(writes + reads, 0);
}

TEST_P(DiskTierTest, AFolderThatIsNoneIsNamed) {
    std::unique_ptr<DiskTier> disk;
    const Status status = DiskTier::open({folder_.path() + "/none", 0, "", GetParam()}, &disk);
    EXPECT_EQ(status.code(), StatusCode::kIo);
    EXPECT_NE(status.message().find(folder_.path() + "/none"), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("errno 2"), std::string::npos) << status.message();
}

TEST(Faults, AreReadAndRefused) {
    io::Faults faults;
    ASSERT_TRUE(io::parse_faults("read_eio=0.25,seed=7,after=12", &faults).is_ok());
    EXPECT_EQ(faults.read_eio, 0.25);
    EXPECT_EQ(faults.seed, 7);
    EXPECT_EQ(faults.after, 12);
    EXPECT_EQ(faults.write_eio, 0);
    for (const char* text : {"read_eio", "read_eio=2", "read_eio=x", "none=0.1", "read_eio=-1", "read_eio=0.1x"}) {
        const Status status = io::parse_faults(text, &faults);
        EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << text;
        EXPECT_NE(status.message().find(text), std::string::npos) << status.message();
    }
}

}  // namespace
}  // namespace atlas::kv
