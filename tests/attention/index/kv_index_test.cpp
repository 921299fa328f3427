#include "attention/index/kv_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "fixture.h"

namespace atlas::attention {
namespace {

class KvIndexTest : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(BlockKeys, KvIndexTest, testing::Values(16, 32, 64));

void fill(Scene& scene, KvIndex& index, float tilt = 0.0f) {
    const auto sample = scene.rows_of(scene.k, 0, 0);
    std::vector<float> keys(sample);
    const auto other = scene.rows_of(scene.k, 0, 1);
    keys.insert(keys.end(), other.begin(), other.end());
    Calibration& calibration = index.calibration(0);
    index.calibrate(keys.data(), kv::kPageRows, &calibration);
    for (size_t i = 0; i < calibration.tilt.size(); ++i) calibration.tilt[i] = tilt * static_cast<float>(i % 5) - tilt;
    for (int64_t page = 0; page < index.pages(); ++page) {
        index.reserve(page, 1);
        for (int64_t head = 0; head < 2; ++head)
            index.update(page, 1, head, scene.rows_of(scene.k, page, head).data(),
                         scene.rows_of(scene.v, page, head).data(), calibration, false);
        index.mark_fresh(page, 1);
    }
}

double stored_mean(const KvIndex& index, const Panel& panel, int64_t head, int64_t lane, int64_t i) {
    return static_cast<double>(panel.mean_scale[lane]) * panel.mean()[i * 16 + lane] +
           static_cast<double>(index.calibration(0).offset[static_cast<size_t>(head * 16 + i)]);
}

TEST_P(KvIndexTest, MomentsMatchFloat64WithinEightBits) {
    Scene scene(1024, 1);
    KvIndex index = scene.make_index(GetParam());
    fill(scene, index);
    const int64_t n = GetParam();
    for (int64_t block = 0; block < 1024 / n; ++block) {
        for (int64_t head = 0; head < 2; ++head) {
            const auto keys = scene.rows_of(scene.k, block * n / 64, head);
            const auto values = scene.rows_of(scene.v, block * n / 64, head);
            const Panel& panel = *index.panel(head, block / 16);
            const int64_t lane = block % 16;
            const int64_t row0 = block * n % 64;
            for (int64_t i = 0; i < scene.d; ++i) {
                double mean = 0.0;
                double value = 0.0;
                for (int64_t j = row0; j < row0 + n; ++j) {
                    mean += keys[static_cast<size_t>(j * scene.d + i)] / static_cast<double>(n);
                    value += values[static_cast<size_t>(j * scene.d + i)] / static_cast<double>(n);
                }
                ASSERT_NEAR(stored_mean(index, panel, head, lane, i), mean, 0.51 * panel.mean_scale[lane] + 1e-6);
                ASSERT_NEAR(panel.value_scale[lane] * panel.value()[lane * scene.d + i], value,
                            0.51 * panel.value_scale[lane] + 1e-6);
            }
        }
    }
}

/** q·k of every key lies below peak + (q − tilt)·mean + Σ_p |q − tilt|_p·reach_p. */
void expect_bounds(int block_keys, float tilt_size) {
    Scene scene(2048, 1);
    KvIndex index = scene.make_index(block_keys);
    fill(scene, index, tilt_size);
    const std::vector<float>& tilt = index.calibration(0).tilt;
    const int64_t n = block_keys;
    for (int64_t super = 0; super < 2048 / n / kSuperBlocks; ++super) {
        for (int64_t head = 0; head < 2; ++head) index.update_super(super, head);
    }
    for (int trial = 0; trial < 20; ++trial) {
        std::vector<double> q(static_cast<size_t>(scene.d));
        for (double& x : q) x = scene.normal(scene.random);
        const auto bound = [&](const Panel& panel, int64_t head, int64_t lane) {
            double sum = static_cast<double>(panel.peak[lane]);
            const auto rest = [&](int64_t i) {
                return q[static_cast<size_t>(i)] - static_cast<double>(tilt[static_cast<size_t>(head * scene.d + i)]);
            };
            for (int64_t i = 0; i < scene.d; ++i) sum += rest(i) * stored_mean(index, panel, head, lane, i);
            for (int64_t p = 0; p < scene.d / 2; ++p) {
                const double a = rest(first_of_pair(index.pairing(), p));
                const double b = rest(second_of_pair(index.pairing(), p, scene.d));
                sum += std::hypot(a, b) * static_cast<double>(panel.reach_scale[lane]) * panel.reach()[p * 16 + lane];
            }
            return sum;
        };
        for (int64_t head = 0; head < 2; ++head) {
            for (int64_t key = 0; key < 2048; ++key) {
                const auto keys = scene.rows_of(scene.k, key / 64, head);
                double dot = 0.0;
                for (int64_t i = 0; i < scene.d; ++i)
                    dot += q[static_cast<size_t>(i)] * keys[static_cast<size_t>(key % 64 * scene.d + i)];
                const int64_t block = key / n;
                ASSERT_LE(dot, bound(*index.panel(head, block / 16), head, block % 16) + 1e-5);
                const int64_t super = block / kSuperBlocks;
                ASSERT_LE(dot, bound(*index.super_panel(head, super / 16), head, super % 16) + 1e-5);
            }
            if (trial == 0) continue;
            break;
        }
    }
}

TEST_P(KvIndexTest, ReachBoundsEveryKeyOfBlocksAndSuperBlocks) { expect_bounds(GetParam(), 0.0f); }

TEST_P(KvIndexTest, ReachBoundsEveryKeyUnderATilt) { expect_bounds(GetParam(), 0.4f); }

/** Fills the index by groups of `count` pages of alike keys. */
void fill_alike(Scene& scene, KvIndex& index, int64_t count) {
    fill(scene, index, 0.4f);
    for (int64_t page = 0; page < index.pages(); page += count) {
        index.reserve(page, count);
        for (int64_t head = 0; head < 2; ++head) {
            std::vector<float> k, v;
            for (int64_t p = page; p < page + count; ++p) {
                for (const float x : scene.rows_of(scene.k, p, head)) k.push_back(x);
                for (const float x : scene.rows_of(scene.v, p, head)) v.push_back(x);
            }
            index.update(page, count, head, k.data(), v.data(), index.calibration(0), true);
        }
        index.mark_fresh(page, count);
    }
}

TEST_P(KvIndexTest, BlocksOfAlikeKeysDescribeTheCellsTheyName) {
    for (int64_t count = 1; count <= 16 * GetParam() / 64; count *= 2) {
        Scene scene(1024, 1);
        KvIndex index = scene.make_index(GetParam());
        fill_alike(scene, index, count);
        const std::vector<float>& tilt = index.calibration(0).tilt;
        for (int64_t page = 0; page < index.pages(); page += count) {
            for (int64_t head = 0; head < 2; ++head) {
                std::vector<int32_t> order;
                index.order_of(page, count, head, &order);
                std::vector<bool> named(order.size());
                for (const int32_t cell : order) named[static_cast<size_t>(cell)] = true;
                EXPECT_EQ(std::count(named.begin(), named.end(), true), count * 64);
                for (size_t block = 0; block < order.size() / static_cast<size_t>(GetParam()); ++block) {
                    const int64_t number = page * index.blocks_per_page() + static_cast<int64_t>(block);
                    const Panel& panel = *index.panel(head, number / 16);
                    const int64_t lane = number % 16;
                    // Float64 from the cells: ln Σ e^{t·k}, the weighted mean, and the bound of every key.
                    std::vector<double> mean(16, 0.0);
                    double mass = 0.0;
                    const auto key_of = [&](int j) {
                        const int32_t cell = order[block * static_cast<size_t>(GetParam()) + static_cast<size_t>(j)];
                        const auto rows = scene.rows_of(scene.k, page + cell / 64, head);
                        return std::vector<float>(rows.begin() + cell % 64 * 16, rows.begin() + cell % 64 * 16 + 16);
                    };
                    for (int j = 0; j < GetParam(); ++j) {
                        const auto key = key_of(j);
                        double dot = 0.0;
                        for (size_t i = 0; i < 16; ++i)
                            dot += static_cast<double>(key[i]) * tilt[static_cast<size_t>(head * 16) + i];
                        mass += std::exp(dot);
                        for (size_t i = 0; i < 16; ++i) mean[i] += std::exp(dot) * key[i];
                    }
                    ASSERT_NEAR(panel.log_mass[lane], std::log(mass), 1e-4);
                    for (size_t i = 0; i < 16; ++i)
                        ASSERT_NEAR(stored_mean(index, panel, head, lane, static_cast<int64_t>(i)), mean[i] / mass,
                                    0.52 * panel.mean_scale[lane] + 1e-5);
                    for (int j = 0; j < GetParam(); ++j) {
                        const auto key = key_of(j);
                        for (int64_t p = 0; p < 8; ++p) {
                            const int64_t a = first_of_pair(index.pairing(), p);
                            const int64_t b = second_of_pair(index.pairing(), p, 16);
                            const double distance =
                                std::hypot(key[static_cast<size_t>(a)] - stored_mean(index, panel, head, lane, a),
                                           key[static_cast<size_t>(b)] - stored_mean(index, panel, head, lane, b));
                            ASSERT_LE(distance,
                                      panel.reach_scale[lane] * panel.reach()[p * 16 + lane] * 1.00001 + 1e-6);
                        }
                    }
                }
            }
        }
    }
}

TEST(KvIndex, AGroupIsFreshAsItWasMadeUntilAPageIsWrittenOrGroupedOtherwise) {
    Scene scene(1024, 1);
    KvIndex index = scene.make_index(32);
    fill_alike(scene, index, 8);
    index.set_chunk_checked(0, 77);
    EXPECT_TRUE(index.group_fresh(8, 8));
    EXPECT_TRUE(index.chunk_checked(0, 77));
    EXPECT_FALSE(index.chunk_checked(0, 78));
    EXPECT_FALSE(index.group_fresh(8, 4));
    EXPECT_FALSE(index.group_fresh(8, 1));
    // Four pages of the first group by themselves: what the others are described by is gone.
    index.reserve(0, 4);
    EXPECT_FALSE(index.group_fresh(0, 8));
    EXPECT_FALSE(index.group_fresh(4, 4));
    EXPECT_TRUE(index.group_fresh(8, 8));
    scene.write_row(8 * 64 + 3, 1.0f);
    EXPECT_FALSE(index.group_fresh(8, 8));
    EXPECT_FALSE(index.chunk_checked(0, 77));
}

TEST(CoarseScale, IsNeverBelowAndWithinOnePartIn128) {
    for (float x = 1e-30f; x < 1e30f; x *= 1.37f) {
        const float coarse = CoarseScale(x);
        EXPECT_GE(coarse, x);
        EXPECT_LE(coarse, x * (1.0f + 1.0f / 128));
    }
    EXPECT_EQ(static_cast<float>(CoarseScale(0.0f)), 0.0f);
}

TEST(KvIndex, FindsWhichDimensionsTurnTogether) {
    constexpr int64_t kD = 32;
    for (const Pairing truth : {Pairing::kAdjacent, Pairing::kHalves}) {
        std::mt19937 random(7);
        std::normal_distribution<float> normal;
        std::vector<float> keys(256 * kD);
        std::vector<float> size(kD / 2);
        for (float& x : size) x = 0.2f + std::fabs(normal(random));
        for (int64_t j = 0; j < 256; ++j) {
            for (int64_t p = 0; p < kD / 2; ++p) {
                const double angle = static_cast<double>(j) * std::pow(10000.0, -2.0 * static_cast<double>(p) / kD) +
                                     0.2 * normal(random);
                keys[static_cast<size_t>(j * kD + first_of_pair(truth, p))] =
                    size[static_cast<size_t>(p)] * static_cast<float>(std::cos(angle));
                keys[static_cast<size_t>(j * kD + second_of_pair(truth, p, kD))] =
                    size[static_cast<size_t>(p)] * static_cast<float>(std::sin(angle));
            }
        }
        kv::Budget budget;
        kv::RamTier tier(budget);
        kv::WriteClock clock;
        kv::PageTable k(tier, clock, kD * 4, 256), v(tier, clock, kD * 4, 256);
        KvIndex index(k, v, 1, kD, kD, 32);
        index.calibrate(keys.data(), 256, &index.calibration(0));
        EXPECT_EQ(index.pairing(), truth);
    }
}

TEST(KvIndex, EveryWritePathMakesThePageStale) {
    Scene scene(512, 1);
    KvIndex index = scene.make_index(32);
    fill(scene, index);
    const float x = 1.0f;
    kv::WriteLease lease;
    const size_t page_bytes = scene.k.page_bytes();
    EXPECT_TRUE(index.page_fresh(1));
    ASSERT_TRUE(scene.k.write(page_bytes + 8, &x, 4).is_ok());
    EXPECT_FALSE(index.page_fresh(1));
    ASSERT_TRUE(scene.v.lease(2 * page_bytes, 1, &lease).is_ok());
    EXPECT_FALSE(index.page_fresh(2));
    ASSERT_TRUE(scene.v.fill(3 * page_bytes, 1, 4).is_ok());
    EXPECT_FALSE(index.page_fresh(3));
    EXPECT_TRUE(index.page_fresh(0));
    EXPECT_TRUE(index.page_fresh(4));
    scene.k.clear();
    EXPECT_FALSE(index.page_fresh(4));
}

TEST(KvIndex, StaysBelowThreePercentOfAnF16Cache) {
    for (const auto& [d, rows] : {std::pair<int64_t, int64_t>{64, 8192}, {64, 131072}, {128, 8192}, {128, 131072}}) {
        kv::Budget budget;
        kv::RamTier tier(budget);
        kv::WriteClock clock;
        kv::PageTable k(tier, clock, static_cast<size_t>(d) * 2, rows), v(tier, clock, static_cast<size_t>(d) * 2, rows);
        KvIndex index(k, v, 1, d, d, Settings{}.block_keys);
        for (int64_t page = 0; page < index.pages(); ++page) index.reserve(page, 1);
        EXPECT_LE(static_cast<double>(index.bytes()), 0.03 * static_cast<double>(k.bytes() + v.bytes()))
            << "head size " << d << ", " << rows << " cells";
    }
}

}  // namespace
}  // namespace atlas::attention
