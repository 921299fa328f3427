// That the emulator does what CUDA says, where no fault is planted: numbers, collectives, tensor cores, asynchronous copies.
#include "emulator/emulator.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cuda/simt.h"

namespace atlas::simt {
namespace {

constexpr dim3 kOne{1, 1, 1};
constexpr dim3 kWarp{32, 1, 1};

class Emulator : public testing::TestWithParam<unsigned> {
protected:
    void SetUp() override { set_seed(GetParam()); }
    void TearDown() override { set_seed(0); }
};
INSTANTIATE_TEST_SUITE_P(Seeds, Emulator, testing::Values(0u, 1u, 2u, 3u));

TEST(EmulatorNumbers, HalvesRoundToNearestEven) {
    // Every f16 there and back; between neighbours the nearer one, in the middle the even one.
    for (uint32_t bits = 0; bits < 0x7C00; ++bits) {
        const auto half = static_cast<uint16_t>(bits);
        const float value = half_to_float(half);
        ASSERT_EQ(float_to_half(value), half);
        ASSERT_EQ(float_to_half(-value), half | 0x8000);
        if (bits + 1 == 0x7C00) break;
        const float next = half_to_float(static_cast<uint16_t>(bits + 1));
        const float middle = (value + next) / 2;
        ASSERT_EQ(float_to_half(middle), bits % 2 == 0 ? bits : bits + 1);
        ASSERT_EQ(float_to_half(std::nextafter(middle, 0.0f)), bits);
        ASSERT_EQ(float_to_half(std::nextafter(middle, HUGE_VALF)), bits + 1);
    }
    EXPECT_EQ(half_to_float(0x3C01), 1.0f + 0x1p-10f);
    EXPECT_EQ(float_to_half(65520.0f), 0x7C00);
    EXPECT_EQ(float_to_half(HUGE_VALF), 0x7C00);
    EXPECT_TRUE(std::isnan(half_to_float(float_to_half(std::numeric_limits<float>::quiet_NaN()))));
}

struct Lanes {
    unsigned *by_xor, *by_index, *ballot;
    float* sums;
};

void collectives(Lanes out) {
    const unsigned lane = threadIdx.x;
    write(out.by_xor + lane, __shfl_xor_sync(kWholeWarp, lane * 3, 5));
    write(out.by_index + lane, __shfl_sync(kWholeWarp, lane * 3, 7));
    write(out.ballot + lane, __ballot_sync(kWholeWarp, lane % 3 == 0));
    write(out.sums + lane, sum_over_lanes<1, 8>(static_cast<float>(lane)));
}

TEST_P(Emulator, Collectives) {
    std::array<unsigned, 32> by_xor{}, by_index{}, ballot{};
    std::array<float, 32> sums{};
    launch(collectives, kOne, kWarp, 0, {by_xor.data(), by_index.data(), ballot.data(), sums.data()});
    for (unsigned lane = 0; lane < 32; ++lane) {
        EXPECT_EQ(by_xor[lane], (lane ^ 5) * 3);
        EXPECT_EQ(by_index[lane], 21u);
        EXPECT_EQ(ballot[lane], 0x49249249u);
        EXPECT_EQ(sums[lane], static_cast<float>(lane / 8 * 8 * 8 + 28));
    }
}

struct Product {
    const uint16_t *a, *b;  // [16][16], [16][8]
    float* d;               // [16][8]
};

// b goes through shared memory and is loaded as tiles, a by the lanes' own hands.
void product(Product p) {
    SIMT_SHARED(memory);
    Carver carver(memory);
    auto* b = carver.take<uint16_t>(16 * 8);
    const unsigned lane = threadIdx.x;
    if (lane < 16) copy16(b + lane * 8, p.b + lane * 8, true);
    copy_commit();
    copy_wait<0>();
    __syncwarp();
    uint32_t a_regs[4];
    for (unsigned r = 0; r < 4; ++r) {
        const unsigned row = lane / 4 + r % 2 * 8;
        const unsigned column = lane % 4 * 2 + r / 2 * 8;
        a_regs[r] = read(reinterpret_cast<const uint32_t*>(p.a + row * 16 + column));
    }
    uint32_t b_regs[2];
    load_transposed(b_regs, b + lane % 16 * 8);
    float d[4] = {};
    mma_halves(d, a_regs, b_regs);
    for (unsigned i = 0; i < 4; ++i) write(p.d + (lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2, d[i]);
}

TEST_P(Emulator, TensorCoresMultiply) {
    std::mt19937 rng(GetParam());
    std::normal_distribution<float> normal;
    alignas(16) uint16_t a[16 * 16];
    alignas(16) uint16_t b[16 * 8];
    for (uint16_t& x : a) x = float_to_half(normal(rng));
    for (uint16_t& x : b) x = float_to_half(normal(rng));
    std::vector<float> d(16 * 8);
    launch(product, kOne, kWarp, 256, {a, b, d.data()});
    for (int i = 0; i < 16; ++i) {
        for (int j = 0; j < 8; ++j) {
            double sum = 0;
            for (int k = 0; k < 16; ++k)
                sum += static_cast<double>(half_to_float(a[i * 16 + k])) * half_to_float(b[k * 8 + j]);
            EXPECT_NEAR(d[static_cast<size_t>(i * 8 + j)], sum, 1e-5) << i << " " << j;
        }
    }
}

struct Grid {
    unsigned* seen;  // [blocks][threads]
};
void mark(Grid g) {
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned threads = blockDim.x * blockDim.y;
    __syncthreads();
    g.seen[block * threads + threadIdx.y * blockDim.x + threadIdx.x] += 1 + block;
}

TEST_P(Emulator, EveryThreadOfEveryBlockRunsOnce) {
    std::vector<unsigned> seen(3 * 2 * 2 * 40);
    launch(mark, {3, 2, 2}, {20, 2, 1}, 0, {seen.data()});
    for (size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], 1 + i / 40);
}

struct Votes {
    int* yes;  // [8][threads]
};
void votes(Votes v) {
    for (int i = 0; i < 8; ++i) {
        const int yes = __syncthreads_or(i % 2 == 0 && static_cast<int>(threadIdx.x) == 7 * i);
        write(v.yes + static_cast<unsigned>(i) * blockDim.x + threadIdx.x, yes);
    }
}

TEST_P(Emulator, VotesDoNotMix) {
    std::vector<int> yes(8 * 50);
    launch(votes, kOne, {50, 1, 1}, 0, {yes.data()});
    for (size_t i = 0; i < yes.size(); ++i) EXPECT_EQ(yes[i], i / 50 % 2 == 0) << i;
}

struct Copies {
    const float* from;
    float* early;
    float* late;
};
void copies(Copies c) {
    SIMT_SHARED(memory);
    Carver carver(memory);
    auto* tile = carver.take<float>(8);
    copy16(tile, c.from, true);
    copy_commit();
    copy16(tile + 4, c.from, false);
    copy_commit();
    copy_wait<1>();
    for (int i = 0; i < 8; ++i) c.early[i] = tile[i];
    copy_wait<0>();
    for (int i = 0; i < 8; ++i) c.late[i] = tile[i];
}

TEST_P(Emulator, CopiesArriveGroupByGroup) {
    alignas(16) const float from[4] = {1, 2, 3, 4};
    float early[8], late[8];
    reset_traffic();
    launch(copies, kOne, kOne, 64, {from, early, late});
    for (int i = 0; i < 4; ++i) {
        EXPECT_EQ(early[i], from[i]);
        EXPECT_FALSE(std::fabs(early[4 + i]) < 1e30f);  // NaN, or large
        EXPECT_EQ(late[i], from[i]);
        EXPECT_EQ(late[4 + i], 0.0f);
    }
    EXPECT_EQ(traffic().read, 32u);
}

}  // namespace
}  // namespace atlas::simt
