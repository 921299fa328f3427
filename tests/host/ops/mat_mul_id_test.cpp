// Products with chosen experts through the host's public interface: beside the CPU backend's, and with numbers of experts that there are not.

#include <gtest/gtest.h>

#include <algorithm>
#include <climits>
#include <string>
#include <vector>

#include "atlas_device.h"

namespace atlas::host::test {
namespace {

constexpr int64_t kExperts = 5;

struct Shape {
    ggml_type type;
    int64_t k, rows, tokens, chosen;
    bool shared;  ///< one column a token for all of its experts (gate, up), else one for each (down)
};

/** MUL_MAT_ID on one device: the same values on each. */
struct Experts {
    Experts(ggml_backend_dev_t device, const Shape& shape) : bench(device) {
        weights = bench.tensor("blk.0.ffn_up_exps.weight", shape.type, {shape.k, shape.rows, kExperts});
        columns = bench.tensor("columns", GGML_TYPE_F32, {shape.k, shape.shared ? 1 : shape.chosen, shape.tokens});
        // The numbers of all experts in order of their probability, of which the first ones count.
        sorted = bench.tensor("sorted", GGML_TYPE_I32, {kExperts, shape.tokens});
        ggml_tensor* ids =
            ggml_view_2d(bench.context(), sorted, shape.chosen, shape.tokens, kExperts * sizeof(int32_t), 0);
        product = ggml_mul_mat_id(bench.context(), weights, columns, ids);
        EXPECT_NE(bench.allocate(), nullptr);
        Bench::set(weights, noise(static_cast<size_t>(ggml_nelements(weights)), 1));
        Bench::set(columns, noise(static_cast<size_t>(ggml_nelements(columns)), 2));
        std::vector<int32_t> numbers;
        for (int64_t t = 0; t < shape.tokens; ++t) {
            // The last expert is nobody's first choice, and often nobody's at all.
            for (int64_t i = 0; i < kExperts; ++i)
                numbers.push_back(i + 1 < kExperts ? static_cast<int32_t>((t * 3 + i) % (kExperts - 1)) : kExperts - 1);
        }
        choose(numbers);
    }
    void choose(const std::vector<int32_t>& numbers) const {
        ggml_backend_tensor_set(sorted, numbers.data(), 0, ggml_nbytes(sorted));
    }

    Bench bench;
    ggml_tensor *weights, *columns, *sorted, *product;
};

using MatMulId = AtlasDevice;

/** Activations are rounded alike, so that only the order of sums differs. */
TEST_F(MatMulId, EqualsTheHosts) {
    for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_Q4_K}) {
        for (const Shape& shape :
             {Shape{type, 256, 33, 1, 2, true}, Shape{type, 512, 70, 1, 4, false}, Shape{type, 256, 1, 3, 1, true},
              Shape{type, 256, 37, 70, 3, true}, Shape{type, 256, 37, 70, 3, false}, Shape{type, 256, 8, 9, 5, true},
              // More columns than are quantised at once.
              Shape{type, 256, 5, 2100, 2, true}, Shape{type, 256, 5, 1030, 2, false}}) {
            Experts ours(device_, shape);
            Experts theirs(cpu_device(), shape);
            ASSERT_EQ(ours.bench.compute(ours.product), GGML_STATUS_SUCCESS);
            ASSERT_EQ(theirs.bench.compute(theirs.product), GGML_STATUS_SUCCESS);
            EXPECT_LT(nmse(Bench::floats(theirs.product), Bench::floats(ours.product)), 1e-8)
                << ggml_type_name(type) << " k " << shape.k << " rows " << shape.rows << " tokens " << shape.tokens
                << " chosen " << shape.chosen << (shape.shared ? " shared" : "");
        }
    }
}

/** Gate and up share their columns, and a second graph has other values in them. */
TEST_F(MatMulId, ColumnsAreQuantisedAnewInEveryGraph) {
    const Shape shape{GGML_TYPE_Q8_0, 256, 40, 7, 2, true};
    Experts ours(device_, shape);
    Experts theirs(cpu_device(), shape);
    for (const uint32_t seed : {3u, 4u}) {
        for (const Experts* each : {&ours, &theirs})
            Bench::set(each->columns, noise(static_cast<size_t>(ggml_nelements(each->columns)), seed));
        ASSERT_EQ(ours.bench.compute(ours.product), GGML_STATUS_SUCCESS);
        ASSERT_EQ(theirs.bench.compute(theirs.product), GGML_STATUS_SUCCESS);
        EXPECT_LT(nmse(Bench::floats(theirs.product), Bench::floats(ours.product)), 1e-8) << seed;
    }
}

TEST_F(MatMulId, ANumberOfNoExpertFailsTheGraphInOneLine) {
    const Shape shape{GGML_TYPE_Q4_0, 256, 40, 3, 2, true};
    Experts experts(device_, shape);
    ASSERT_EQ(experts.bench.compute(experts.product), GGML_STATUS_SUCCESS);
    const std::vector<float> right = Bench::floats(experts.product);
    std::vector<int32_t> good(static_cast<size_t>(ggml_nelements(experts.sorted)));
    ggml_backend_tensor_get(experts.sorted, good.data(), 0, ggml_nbytes(experts.sorted));
    for (const int32_t bad : {-1, static_cast<int32_t>(kExperts), INT_MIN, INT_MAX}) {
        std::vector<int32_t> numbers = good;
        numbers[2 * kExperts + 1] = bad;
        experts.choose(numbers);
        testing::internal::CaptureStderr();
        const ggml_status status = experts.bench.compute(experts.product);
        const std::string log = testing::internal::GetCapturedStderr();
        EXPECT_EQ(status, GGML_STATUS_FAILED) << bad;
        EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << log;
        EXPECT_NE(log.find("expert " + std::to_string(bad) + " of token 2: there are 5"), std::string::npos) << log;
        // What was not chosen is nobody's business, and the next graph is as good as the first.
        numbers = good;
        numbers[2 * kExperts + 4] = bad;
        experts.choose(numbers);
        EXPECT_EQ(experts.bench.compute(experts.product), GGML_STATUS_SUCCESS) << bad;
        EXPECT_EQ(Bench::floats(experts.product), right) << bad;
    }
}

}  // namespace
}  // namespace atlas::host::test
