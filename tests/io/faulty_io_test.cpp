#include "io/faulty_io.h"

#include <gtest/gtest.h>

#include <bit>
#include <cerrno>

#include "scratch_file.h"

namespace atlas::io {
namespace {

constexpr size_t kBytes = 2 * kIoAlignment;  // halves of a transfer are whole blocks
constexpr auto kWhole = static_cast<int64_t>(kBytes);

/** A file of ones, under faults. */
class FaultyIoTest : public ::testing::Test {
protected:
    void SetUp() override {
        const auto plain = make_plain_io(file_.fd());
        std::vector<IoRequest> writes = {ones_.write(0)};
        ASSERT_EQ(transfer(*plain, writes), 1u);
    }
    std::unique_ptr<BlockIo> with(const char* faults) const {
        Faults parsed;
        EXPECT_TRUE(parse_faults(faults, &parsed).is_ok()) << faults;
        return make_faulty_io(make_plain_io(file_.fd()), parsed);
    }
    static int64_t result_of(BlockIo& io, IoRequest request) {
        std::vector<IoRequest> requests = {request};
        EXPECT_EQ(transfer(io, requests), 1u);
        return requests[0].result;
    }
    /** Bits in which the file differs from ones. */
    int differing() const {
        const Block now(0, kBytes);
        const auto plain = make_plain_io(file_.fd());
        EXPECT_EQ(result_of(*plain, now.read(0)), kWhole);
        return differing(now);
    }
    int differing(const Block& block) const {
        int count = 0;
        for (size_t i = 0; i < kBytes; ++i) count += std::popcount(std::to_integer<unsigned>(block[i] ^ ones_[i]));
        return count;
    }

    ScratchFile file_;
    Block ones_{1, kBytes};
};

TEST_F(FaultyIoTest, ErrorsAndShortTransfersAreTold) {
    const Block block(3, kBytes);
    EXPECT_EQ(result_of(*with("read_eio=1"), block.read(0)), -EIO);
    EXPECT_EQ(result_of(*with("short_read=1"), block.read(0)), kWhole / 2);
    EXPECT_EQ(result_of(*with("write_eio=1"), block.write(0)), -EIO);
    EXPECT_EQ(result_of(*with("write_enospc=1"), block.write(0)), -ENOSPC);
    EXPECT_EQ(differing(), 0) << "what failed was not written";
    EXPECT_EQ(with("grow_enospc=1")->grow(0, kIoAlignment), ENOSPC);
}

TEST_F(FaultyIoTest, TornAndFlippedBytesAreNotTold) {
    const Block block(0, kBytes);
    EXPECT_EQ(result_of(*with("flip_read=1"), block.read(0)), kWhole);
    EXPECT_EQ(differing(block), 1);
    EXPECT_EQ(result_of(*with("flip_write=1"), ones_.write(0)), kWhole);
    EXPECT_EQ(differing(), 1);
    const Block zeros(0, kBytes);
    EXPECT_EQ(result_of(*with(""), ones_.write(0)), kWhole);
    EXPECT_EQ(result_of(*with("torn_write=1"), zeros.write(0)), kWhole);
    EXPECT_EQ(differing(), static_cast<int>(kBytes / 2));
}

TEST_F(FaultyIoTest, TheFirstOnesGoWellAndASeedTellsTheRest) {
    const Block block(0, kBytes);
    const auto io = with("read_eio=1,after=2");
    EXPECT_EQ(result_of(*io, block.read(0)), kWhole);
    EXPECT_EQ(result_of(*io, block.read(0)), kWhole);
    EXPECT_EQ(result_of(*io, block.read(0)), -EIO);
    const auto pattern = [&](const char* faults) {
        const auto some = with(faults);
        std::vector<int64_t> results;
        for (int i = 0; i < 64; ++i) results.push_back(result_of(*some, block.read(0)));
        return results;
    };
    EXPECT_EQ(pattern("read_eio=0.5,seed=7"), pattern("read_eio=0.5,seed=7"));
    EXPECT_NE(pattern("read_eio=0.5,seed=7"), pattern("read_eio=0.5,seed=8"));
}

TEST(Faults, OthersThanTheseAreRefused) {
    Faults faults;
    for (const char* text : {"x=1", "read_eio", "read_eio=2", "read_eio=-1", "read_eio=x"})
        EXPECT_FALSE(parse_faults(text, &faults).is_ok()) << text;
}

}  // namespace
}  // namespace atlas::io
