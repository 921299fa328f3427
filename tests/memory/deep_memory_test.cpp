#include "memory/deep_memory.h"

#include <gtest/gtest.h>

#include "memory/reference/deep_memory.h"
#include "../numbers.h"

namespace atlas::memory {
namespace {

class DeepMemory : public testing::TestWithParam<MemoryKind> {
protected:
    MemoryShape shape(Numbers* numbers, size_t low, size_t high) const {
        MemoryShape shape;
        shape.kind = GetParam();
        shape.d_out = numbers->size(low, high);
        shape.residual = numbers->size(0, 1) ? 1.0f : 0.0f;
        shape.d_in = shape.residual != 0.0f ? shape.d_out : numbers->size(low, high);
        shape.hidden = GetParam() == MemoryKind::kLinear ? 0 : numbers->size(low, 4 * high);
        shape.bias = numbers->size(0, 1) != 0;
        return shape;
    }
};

/** Central differences of the float64 loss, at every parameter and input element. */
TEST_P(DeepMemory, ReferenceGradientsAreFiniteDifferences) {
    Numbers numbers(11);
    for (int round = 0; round < 6; ++round) {
        const MemoryShape s = shape(&numbers, 2, 6);
        std::vector<double> p = widen(numbers.normal(parameter_count(s), 0.7)), x = widen(numbers.normal(s.d_in)),
                            v = widen(numbers.normal(s.d_out));
        std::vector<double> gradient(p.size(), 0.0), x_gradient(s.d_in, 0.0), scratch(p.size());
        const double weight = 0.6;
        const double loss =
            reference::add_memory_gradient(s, p.data(), x.data(), v.data(), weight, gradient.data(), x_gradient.data());
        const auto loss_at = [&] {
            std::vector<double> y(s.d_out);
            reference::memory_forward(s, p.data(), x.data(), y.data());
            double sum = 0.0;
            for (size_t i = 0; i < y.size(); ++i) sum += weight * (y[i] - v[i]) * (y[i] - v[i]);
            return sum;
        };
        EXPECT_NEAR(loss, loss_at(), 1e-12);
        const auto check = [&](std::vector<double>* values, const std::vector<double>& analytic) {
            constexpr double kStep = 1e-5;
            std::vector<double> numeric;
            for (double& value : *values) {
                const double kept = value;
                value = kept + kStep;
                const double above = loss_at();
                value = kept - kStep;
                const double below = loss_at();
                value = kept;
                numeric.push_back((above - below) / (2.0 * kStep));
            }
            EXPECT_LT(relative_error(analytic, numeric), 1e-6);
        };
        check(&p, gradient);
        check(&x, x_gradient);
    }
}

TEST_P(DeepMemory, ForwardEqualsFloat64) {
    Numbers numbers(12);
    MemoryWorkspace work;
    for (const size_t n : {1u, 2u, 7u, 64u, 130u, 512u}) {
        const MemoryShape s = shape(&numbers, 32, n > 100 ? 64 : 256);
        const std::vector<float> p = numbers.normal(parameter_count(s), 1.0 / std::sqrt(static_cast<double>(s.d_in)));
        const std::vector<float> x = numbers.normal(n * s.d_in);
        std::vector<float> y(n * s.d_out);
        memory_forward(s, p.data(), x.data(), n, y.data(), &work);
        const std::vector<double> p64 = widen(p), x64 = widen(x);
        std::vector<double> expected(y.size());
        for (size_t i = 0; i < n; ++i)
            reference::memory_forward(s, p64.data(), x64.data() + i * s.d_in, expected.data() + i * s.d_out);
        EXPECT_LT(relative_error(y, expected), 1e-5) << n << " rows of " << s.d_in << " → " << s.d_out;
    }
}

TEST_P(DeepMemory, ChunkGradientEqualsFloat64PairByPair) {
    Numbers numbers(13);
    MemoryWorkspace work;
    for (const size_t n : {1u, 3u, 16u, 65u, 512u}) {
        const MemoryShape s = shape(&numbers, 32, n > 100 ? 48 : 128);
        const std::vector<float> p = numbers.normal(parameter_count(s), 1.0 / std::sqrt(static_cast<double>(s.d_in)));
        const std::vector<float> x = numbers.normal(n * s.d_in), v = numbers.normal(n * s.d_out),
                                 w0 = numbers.normal(n), w1 = numbers.normal(n);
        std::vector<float> g0(p.size()), g1(p.size()), dx(n * s.d_in);
        const float* weights[] = {w0.data(), w1.data()};
        float* gradients[] = {g0.data(), g1.data()};
        const double loss = memory_gradient(s, p.data(), x.data(), v.data(), n, weights, gradients, dx.data(), &work);
        const std::vector<double> p64 = widen(p), x64 = widen(x), v64 = widen(v);
        std::vector<double> e0(p.size(), 0.0), e1(p.size(), 0.0), ex(dx.size(), 0.0);
        double expected_loss = 0.0, size = 0.0;
        for (size_t i = 0; i < n; ++i) {
            const double* xi = x64.data() + i * s.d_in;
            const double* vi = v64.data() + i * s.d_out;
            const double part = reference::add_memory_gradient(s, p64.data(), xi, vi, static_cast<double>(w0[i]),
                                                               e0.data(), ex.data() + i * s.d_in);
            reference::add_memory_gradient(s, p64.data(), xi, vi, static_cast<double>(w1[i]), e1.data(), nullptr);
            expected_loss += part;
            size += std::fabs(part);
        }
        EXPECT_NEAR(loss, expected_loss, 1e-5 * size);
        EXPECT_LT(relative_error(g0, e0), 1e-5) << n << " pairs of " << s.d_in << " → " << s.d_out;
        EXPECT_LT(relative_error(g1, e1), 1e-5);
        EXPECT_LT(relative_error(dx, ex), 1e-5);
    }
}

/** A new memory returns r·x exactly, and its first gradient is not zero. */
TEST_P(DeepMemory, StartsAsTheResidualAndCanLearn) {
    Numbers numbers(14);
    for (const float residual : {0.0f, 1.0f}) {
        const MemoryShape s{GetParam(), 16, 16, 32, residual, true};
        std::vector<float> p(parameter_count(s)), g(p.size()), y(16);
        initialize_parameters(s, 3, p.data());
        MemoryWorkspace work;
        const std::vector<float> x = numbers.normal(16), v = numbers.normal(16);
        memory_forward(s, p.data(), x.data(), 1, y.data(), &work);
        for (size_t i = 0; i < 16; ++i) EXPECT_EQ(y[i], residual * x[i]);
        const float one = 1.0f;
        const float* w = &one;
        float* to = g.data();
        memory_gradient(s, p.data(), x.data(), v.data(), 1, {&w, 1}, {&to, 1}, nullptr, &work);
        double norm = 0.0;
        for (size_t i = 0; i < s.d_out * (s.kind == MemoryKind::kLinear ? 16 : 32); ++i)
            norm += static_cast<double>(g[i] * g[i]);
        EXPECT_GT(norm, 1e-3);
    }
}

INSTANTIATE_TEST_SUITE_P(Kinds, DeepMemory, testing::Values(MemoryKind::kLinear, MemoryKind::kDeep, MemoryKind::kGated),
                         [](const auto& info) {
                             return std::string(info.param == MemoryKind::kLinear ? "linear"
                                                : info.param == MemoryKind::kDeep ? "deep"
                                                                                  : "gated");
                         });

TEST(MemoryShapeCheck, NamesWhatIsWrong) {
    EXPECT_TRUE(check_shape({MemoryKind::kDeep, 32, 32, 128, 1.0f, false}).is_ok());
    EXPECT_NE(check_shape({MemoryKind::kDeep, 33, 32, 128, 1.0f, false}).message().find("33 → 32"), std::string::npos);
    EXPECT_FALSE(check_shape({MemoryKind::kDeep, 32, 32, 0, 0.0f, false}).is_ok());
    EXPECT_FALSE(check_shape({MemoryKind::kLinear, 0, 32, 0, 0.0f, false}).is_ok());
}

}  // namespace
}  // namespace atlas::memory
