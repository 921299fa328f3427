#include "io/block_io.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <string>

#include "scratch_file.h"

namespace atlas::io {
namespace {

/** Each layer there is, made for a file or for files that requests name (−1). */
class BlockIoTest : public ::testing::TestWithParam<const char*> {
protected:
    std::unique_ptr<BlockIo> make(int fd) const {
        return std::string(GetParam()) == "uring" ? make_uring_io(fd) : make_plain_io(fd);
    }
    void SetUp() override {
        if (!make(file_.fd())) GTEST_SKIP() << "no io_uring";
    }

    ScratchFile file_;
};

TEST_P(BlockIoTest, ManyTransfersAtOnceReachTheirPlaces) {
    constexpr int kBlocks = 100;
    const auto io = make(file_.fd());
    ASSERT_EQ(io->grow(0, kBlocks * kIoAlignment), 0);
    std::vector<Block> in, out;
    std::vector<IoRequest> writes, reads;
    for (int i = 0; i < kBlocks; ++i) {
        in.emplace_back(i + 1);
        out.emplace_back(0);
        const uint64_t offset = static_cast<uint64_t>(kBlocks - 1 - i) * kIoAlignment;
        writes.push_back(in.back().write(offset));
        reads.push_back(out.back().read(offset));
    }
    ASSERT_EQ(transfer(*io, writes), writes.size());
    ASSERT_EQ(transfer(*io, reads), reads.size());
    for (int i = 0; i < kBlocks; ++i) {
        const auto at = static_cast<size_t>(i);
        EXPECT_EQ(writes[at].result, static_cast<int64_t>(kIoAlignment)) << i;
        EXPECT_EQ(reads[at].result, static_cast<int64_t>(kIoAlignment)) << i;
        EXPECT_TRUE(in[at] == out[at]) << i;
    }
}

TEST_P(BlockIoTest, RequestsMayNameFilesOfTheirOwn) {
    const ScratchFile other;
    const auto io = make(-1);
    const Block one(1), two(2), first(0), second(0);
    std::vector<IoRequest> writes = {one.write(0), two.write(0)}, reads = {first.read(0), second.read(0)};
    for (auto* requests : {&writes, &reads}) {
        (*requests)[0].fd = file_.fd();
        (*requests)[1].fd = other.fd();
        ASSERT_EQ(transfer(*io, *requests), 2u);
    }
    EXPECT_TRUE(first == one);
    EXPECT_TRUE(second == two);
}

TEST_P(BlockIoTest, EndsOfFilesAndErrorsAreTold) {
    const auto io = make(file_.fd());
    const Block in(1), out(0);
    std::vector<IoRequest> write = {in.write(0)};
    ASSERT_EQ(transfer(*io, write), 1u);
    std::vector<IoRequest> reads = {out.read(kIoAlignment), out.read(0)};
    int closed[2];
    ASSERT_EQ(pipe(closed), 0);
    close(closed[0]);
    close(closed[1]);
    reads[1].fd = closed[0];
    ASSERT_EQ(transfer(*io, reads), 2u);
    EXPECT_EQ(reads[0].result, 0) << "nothing is behind the end";
    EXPECT_EQ(reads[1].result, -EBADF);
}

INSTANTIATE_TEST_SUITE_P(Layers, BlockIoTest, ::testing::Values("plain", "uring"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace atlas::io
