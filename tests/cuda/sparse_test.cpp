// Sparse attention on the emulated device: codes of pages, which keys are selected, what becomes of the rest; against the float64 reference.
#include "kernels/cuda/sparse.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "emulator/launch.h"
#include "fake_driver.h"
#include "kernels/codes.h"
#include "sparse_problem.h"

namespace atlas::kernels::cuda::test {
namespace {

class CudaSparse : public testing::TestWithParam<unsigned> {
protected:
    void SetUp() override {
        reset_fake(GetParam());
        before_ = things_open();
        const Status status = Device::open(fake_driver(), 0, fake_image(), &device_);
        ASSERT_TRUE(status.is_ok()) << status.to_string();
    }
    void TearDown() override {
        device_.reset();
        EXPECT_EQ(things_open(), before_);
    }

    /** The selection is what the shares say, and the outputs are those of the selection. */
    void expect_right(SparseProblem& problem, int splits) {
        const std::string what = describe(problem.spec()) + ", splits " + std::to_string(splits);
        SparseAttention sparse(*device_);
        const Status status = sparse.run(problem.call, {.splits = splits});
        ASSERT_TRUE(status.is_ok()) << status.to_string();
        ASSERT_TRUE(device_->wait().is_ok());
        for (int64_t list = 0; list < problem.lists(); ++list) expect_selection(problem, sparse, list, what);

        std::vector<double> out, lse;
        problem.answer(sparse, &out, &lse);
        const std::vector<float> actual = problem.out();
        const std::vector<float> actual_lse = problem.lse();
        const auto d_v = static_cast<size_t>(problem.spec().d_v);
        const bool streamed = problem.call.near.tile_tokens * problem.group() <= 4 ||
                              problem.spec().k_type == DataType::kBF16 || problem.spec().v_type == DataType::kBF16;
        const double tolerance = streamed ? 1e-4 : 4e-3;
        for (size_t row = 0; row < lse.size(); ++row) {
            EXPECT_NEAR(actual_lse[row], lse[row], tolerance) << what << ", row " << row;
            double largest = 0.01;
            double error = 0;
            for (size_t i = row * d_v; i < (row + 1) * d_v; ++i) {
                largest = std::max(largest, std::fabs(out[i]));
                // NaN is an error as well.
                const double off = std::fabs(static_cast<double>(actual[i]) - out[i]);
                error = off <= error ? error : off;
            }
            EXPECT_LT(error / largest, tolerance) << what << ", row " << row;
        }
    }

    static void expect_selection(const SparseProblem& problem, const SparseAttention& sparse, int64_t list,
                                 const std::string& what) {
        const std::vector<double> shares = problem.shares(sparse, list);
        const SparseBudget& budget = problem.spec().budget;
        double least_selected = std::numeric_limits<double>::infinity();
        double most_left = 0;
        int64_t count = 0;
        int64_t pages = 0;
        for (int64_t p = 0; p < problem.pages_of(list); ++p) {
            const uint64_t cells = problem.selected(sparse, list, p);
            count += std::popcount(cells);
            pages += cells != 0;
            for (size_t key = 0; key < kPageKeys; ++key) {
                const double share = shares[static_cast<size_t>(p) * kPageKeys + key];
                if (cells >> key & 1) {
                    least_selected = std::min(least_selected, share);
                } else {
                    most_left = std::max(most_left, share);
                }
            }
        }
        constexpr double kSlack = 1.0005;  // shares are f32, from logits of f32
        EXPECT_LE(most_left, least_selected * kSlack) << what << ", list " << list << ": not the largest";
        const auto all = problem.pages_of(list) * int64_t{kPageKeys};
        const auto of_share = [&](double factor) {
            return std::count_if(shares.begin(), shares.end(),
                                 [&](double x) { return x >= static_cast<double>(budget.share) * factor; });
        };
        const auto kept_in = [&](int64_t n) { return std::clamp(n, std::min(budget.least, all), budget.most); };
        EXPECT_GE(count, kept_in(of_share(kSlack))) << what << ", list " << list;
        EXPECT_LE(count, kept_in(of_share(1 / kSlack))) << what << ", list " << list;
        const PageList& selected = sparse.arguments().selected_lists[list];
        EXPECT_EQ(selected.end - selected.begin, pages) << what << ", list " << list;
        for (uint32_t at = selected.begin; at + 1 < selected.end; ++at) {
            EXPECT_LT(sparse.arguments().selected[at].key, sparse.arguments().selected[at + 1].key) << what;
        }
    }

    std::unique_ptr<Device> device_;

private:
    int before_ = 0;
};
INSTANTIATE_TEST_SUITE_P(Seeds, CudaSparse, testing::Values(0u, 1u, 2u, 3u));

TEST_P(CudaSparse, EveryShape) {
    std::mt19937 random(GetParam() + 50);
    const auto one_of = [&](auto... values) {
        const std::common_type_t<decltype(values)...> all[] = {values...};
        return all[random() % sizeof...(values)];
    };
    for (unsigned i = 0; i < 10; ++i) {
        SparseSpec spec;
        spec.seed = GetParam() * 100 + i;
        spec.k_type = one_of(DataType::kF16, DataType::kF16, DataType::kBF16, DataType::kQ8_0, DataType::kQ4_0);
        spec.v_type = one_of(DataType::kF16, DataType::kF16, DataType::kBF16, DataType::kQ8_0, DataType::kQ4_0);
        const bool blocks = spec.k_type == DataType::kQ8_0 || spec.k_type == DataType::kQ4_0 ||
                            spec.v_type == DataType::kQ8_0 || spec.v_type == DataType::kQ4_0;
        spec.d_k = blocks ? one_of(32, 64, 96, 256) : one_of(40, 64, 80, 128);
        spec.d_v = blocks ? one_of(64, 128) : one_of(24, 64, 136);
        spec.n_head_kv = one_of(1, 2);
        spec.n_head = spec.n_head_kv * one_of(1, 2, 3, 4, 5, 8);
        spec.n_stream = one_of(1, 1, 2);
        spec.n_tokens = one_of(1, 1, 2, 5);
        spec.tile_tokens = one_of(1, 3);
        spec.far_pages = one_of(0, 1, 2, 7, 33, 40);
        spec.near_keys = one_of(0, 1, 64, 70) + spec.n_tokens;
        spec.softcap = one_of(0.0f, 0.0f, 6.0f);
        spec.sinks = random() % 3 == 0;
        spec.mask = random() % 3 != 0;
        spec.budget.share = one_of(0.0f, 1e-4f, 2e-3f, 0.5f);
        spec.budget.least = one_of(0, 1, 16, 100, 5000);
        spec.budget.most = std::max<int64_t>(spec.budget.least, one_of(0, 64, 300, 100000));
        SparseProblem problem(*device_, spec);
        expect_right(problem, one_of(0, 1, 2, 5));
    }
}

TEST_P(CudaSparse, OneListInAnySplit) {
    for (const int splits : {1, 2, 3}) {
        SparseProblem problem(*device_, {.n_head = 2, .n_head_kv = 1, .far_pages = 5, .seed = GetParam()});
        expect_right(problem, splits);
    }
}

TEST_P(CudaSparse, TilesOfSeveralTokens) {
    // A key counts by the token that it matters to most, in the last tile, which is smaller, too.
    SparseProblem problem(*device_, {.n_tokens = 5,
                                     .tile_tokens = 3,
                                     .far_pages = 7,
                                     .budget = {.least = 4, .most = 40, .share = 0.004f},
                                     .seed = GetParam()});
    expect_right(problem, 2);
}

TEST_P(CudaSparse, ManyPages) {
    // More than one round of a block's threads, and far more keys than are asked for.
    SparseProblem problem(*device_, {.d_k = 32,
                                     .d_v = 32,
                                     .n_head = 2,
                                     .n_head_kv = 1,
                                     .far_pages = 300,
                                     .budget = {.least = 100, .most = 200, .share = 1e-6f},
                                     .seed = GetParam()});
    expect_right(problem, 0);
}

TEST_P(CudaSparse, WorkspaceIsUsedAgain) {
    // Larger, smaller, larger: what was there before does not show.
    SparseAttention sparse(*device_);
    for (const int64_t pages : {3, 12, 2}) {
        SparseProblem problem(*device_, {.n_tokens = pages == 2 ? 3 : 1, .far_pages = pages, .seed = GetParam()});
        SparseProblem again(*device_, problem.spec());
        ASSERT_TRUE(sparse.run(problem.call).is_ok());
        SparseAttention fresh(*device_);
        ASSERT_TRUE(fresh.run(again.call).is_ok());
        ASSERT_TRUE(device_->wait().is_ok());
        EXPECT_EQ(problem.out(), again.out());
        EXPECT_EQ(problem.lse(), again.lse());
    }
}

TEST_P(CudaSparse, WhatDoesNotFitIsRefused) {
    SparseProblem problem(*device_, {.far_pages = 1, .seed = GetParam()});
    SparseAttention sparse(*device_);
    const auto refused = [&](auto change) {
        SparseCall call = problem.call;
        change(call);
        const Status status = sparse.run(call);
        EXPECT_FALSE(status.is_ok());
        return status.message();
    };
    EXPECT_NE(refused([](SparseCall& c) { c.near.tile_tokens = 32; }).find("64 rows of a list"), std::string::npos);
    EXPECT_NE(refused([](SparseCall& c) { c.near.d_k = 264; }).find("key size 264"), std::string::npos);
    EXPECT_NE(refused([](SparseCall& c) { c.near.slopes = c.near.q; }).find("ALiBi"), std::string::npos);
    EXPECT_NE(refused([](SparseCall& c) { c.budget.most = 3; }).find("8 to 3 keys"), std::string::npos);
}

TEST_P(CudaSparse, EveryFailureOfTheDriverIsAStatus) {
    SparseProblem problem(*device_, {.far_pages = 2, .seed = 1});
    int calls = 0;
    {
        SparseAttention sparse(*device_);
        const int before = calls_made();
        ASSERT_TRUE(sparse.run(problem.call).is_ok());
        ASSERT_TRUE(device_->wait().is_ok());
        calls = calls_made() - before;
    }
    ASSERT_GT(calls, 20);
    const std::vector<float> right = problem.out();
    const int open = things_open();
    for (int n = 0; n < calls; ++n) {
        SparseAttention sparse(*device_);
        fail_call(n, 2);
        Status status = sparse.run(problem.call);
        if (status.is_ok()) status = device_->wait();
        EXPECT_EQ(status.code(), StatusCode::kOutOfMemory) << n;
        // And the same object is good for the next call.
        ASSERT_TRUE(sparse.run(problem.call).is_ok()) << n;
        ASSERT_TRUE(device_->wait().is_ok());
        EXPECT_EQ(problem.out(), right) << n;
    }
    EXPECT_EQ(things_open(), open);
}

}  // namespace
}  // namespace atlas::kernels::cuda::test
