#include "memory/omega.h"

#include <gtest/gtest.h>

#include <limits>

#include "memory/reference/deep_memory.h"
#include "memory/reference/omega.h"
#include "../numbers.h"

namespace atlas::memory {
namespace {

/** Runs the token form in float64 and the chunked form in f32 over the same pairs. Returns the larger relative error of M's change and of S. */
double compare(const MemoryShape& shape, const OmegaConfig& config, const std::vector<size_t>& chunks, bool gated,
               uint64_t seed) {
    Numbers numbers(seed);
    OmegaLearner learner(shape, config, seed);
    const std::vector<float> start =
        numbers.normal(parameter_count(shape), 1.0 / std::sqrt(static_cast<double>(shape.d_in)));
    learner.set_parameters(start);
    reference::TokenOmega oracle(shape, config, widen(start));
    for (const size_t n : chunks) {
        const std::vector<float> x = numbers.normal(n * shape.d_in), v = numbers.normal(n * shape.d_out);
        std::vector<float> weights(n, 1.0f);
        for (size_t i = 0; gated && i < n; ++i) weights[i] = static_cast<float>(numbers.size(0, 4)) / 4.0f;
        learner.learn(x.data(), v.data(), gated ? weights.data() : nullptr, n);
        for (size_t t = 0; t < n; ++t) {
            const auto row = [&](const std::vector<float>& from, size_t d) {
                return std::vector<double>(from.begin() + static_cast<std::ptrdiff_t>(t * d),
                                           from.begin() + static_cast<std::ptrdiff_t>((t + 1) * d));
            };
            oracle.token(row(x, shape.d_in), row(v, shape.d_out), static_cast<double>(weights[t]));
        }
        oracle.end_chunk();
    }
    return std::max(relative_error(learner.parameters(), oracle.parameters()),
                    relative_error(learner.momentum(), oracle.momentum()));
}

struct Rule {
    const char* name;
    OmegaConfig config;
};

class ChunkedForm : public testing::TestWithParam<Rule> {};

/** The chunked form is the token form: random shapes, chunks of 1 to 512, windows that reach across chunks, with and without gates. */
TEST_P(ChunkedForm, EqualsTheTokenForm) {
    const OmegaConfig config = GetParam().config;
    Numbers numbers(41);
    const std::vector<std::vector<size_t>> plans = {{1, 1, 1, 1}, {5, 1, 7}, {16, 16, 3}, {64, 33}, {130}};
    for (size_t round = 0; round < plans.size(); ++round) {
        for (const MemoryKind kind : {MemoryKind::kLinear, MemoryKind::kDeep, MemoryKind::kGated}) {
            const size_t d = numbers.size(32, 40);
            const MemoryShape shape{
                kind,          d, d, kind == MemoryKind::kLinear ? 0 : numbers.size(33, 70), round % 2 ? 1.0f : 0.0f,
                round % 3 == 0};
            EXPECT_LT(compare(shape, config, plans[round], round % 2 == 1, 100 + round), 1e-5)
                << "plan " << round << " kind " << static_cast<int>(kind);
        }
    }
}

OmegaConfig rule(int window, double decay, double momentum, double retention, double step) {
    return {window, decay, momentum, retention, step};
}

INSTANTIATE_TEST_SUITE_P(Rules, ChunkedForm,
                         testing::Values(Rule{"delta", rule(1, 1.0, 0.0, 1.0, 1e-3)},
                                         Rule{"titans", rule(1, 1.0, 0.9, 0.99, 1e-3)},
                                         Rule{"omega", rule(16, 1.0, 0.9, 1.0, 1e-4)},
                                         Rule{"decayed", rule(16, 0.8, 0.95, 0.98, 3e-4)},
                                         Rule{"forgets_at_once", rule(4, 0.0, 0.5, 1.0, 1e-3)},
                                         Rule{"wide", rule(200, 0.99, 0.3, 1.0, 1e-5)}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(ChunkedFormAtFullSize, WideHeadsAndLongChunks) {
    EXPECT_LT(compare({MemoryKind::kDeep, 128, 128, 256, 1.0f, false}, rule(16, 0.9, 0.9, 0.999, 1e-5), {40}, false, 7),
              1e-5);
    EXPECT_LT(compare({MemoryKind::kLinear, 256, 256, 0, 0.0f, false}, rule(8, 1.0, 0.9, 1.0, 1e-5), {70}, false, 8),
              1e-5);
    EXPECT_LT(compare({MemoryKind::kDeep, 32, 32, 64, 1.0f, false}, rule(16, 1.0, 0.9, 1.0, 1e-5), {512}, false, 9),
              1e-5);
}

/** With Muon the update has no small parts: tolerance for the f32 Newton–Schulz on gradients of low rank (see NewtonSchulzEdge.RankOne). */
TEST(ChunkedForm, EqualsTheTokenFormWithMuon) {
    for (const bool per_token : {false, true}) {
        for (const NewtonSchulz kind : {NewtonSchulz::kStandard, NewtonSchulz::kPolarExpress}) {
            OmegaConfig config = rule(6, 0.9, 0.9, 0.99, 0.01);
            config.orthogonalize = kind;
            config.per_token = per_token;
            EXPECT_LT(compare({MemoryKind::kDeep, 32, 32, 48, 1.0f, true}, config, {40, 9, 30}, true, 43), 1e-5)
                << per_token;
        }
    }
}

/** Chunks of one token without a window: M ← αM − ηS, S ← θS + ∇, by hand for one weight. */
TEST(OmegaRule, OneWeightByHand) {
    const MemoryShape shape{MemoryKind::kLinear, 1, 1, 0, 0.0f, false};
    OmegaLearner learner(shape, rule(1, 1.0, 0.5, 0.9, 0.1), 1);
    double m = 0.0, s = 0.0;
    for (int i = 1; i <= 5; ++i) {
        const float x = static_cast<float>(i), v = 2.0f;
        s = 0.5 * s + 2.0 * (m * i - 2.0) * i;
        m = 0.9 * m - 0.1 * s;
        learner.learn(&x, &v, nullptr, 1);
        EXPECT_NEAR(learner.parameters()[0], m, 1e-4 * std::fabs(m));
    }
}

/** More steps on the same pairs lower the loss, for every kind: the sign of each term is that of a descent. */
TEST(OmegaRule, Descends) {
    for (const NewtonSchulz muon : {NewtonSchulz::kNone, NewtonSchulz::kStandard, NewtonSchulz::kPolarExpress}) {
        for (const MemoryKind kind : {MemoryKind::kLinear, MemoryKind::kDeep, MemoryKind::kGated}) {
            Numbers numbers(44);
            OmegaConfig config = rule(1, 1.0, 0.5, 1.0, muon == NewtonSchulz::kNone ? 3e-4 : 2e-2);
            config.orthogonalize = muon;
            OmegaLearner learner({kind, 32, 32, 64, 0.0f, false}, config, 1);
            const std::vector<float> x = numbers.normal(16 * 32), v = numbers.normal(16 * 32);
            learner.learn(x.data(), v.data(), nullptr, 16);
            const double first = learner.stats().loss;
            for (int i = 0; i < 40; ++i) learner.learn(x.data(), v.data(), nullptr, 16);
            EXPECT_LT(learner.stats().loss, 0.7 * first) << static_cast<int>(kind);
            EXPECT_EQ(learner.stats().pairs, 41u * 16u);
        }
    }
}

TEST(OmegaGuard, SkipsPairsThatAreNotFiniteAndCountsThem) {
    Numbers numbers(45);
    const MemoryShape shape{MemoryKind::kDeep, 32, 32, 64, 1.0f, false};
    OmegaLearner clean(shape, rule(4, 1.0, 0.9, 1.0, 1e-3), 1), dirty(shape, rule(4, 1.0, 0.9, 1.0, 1e-3), 1);
    for (int chunk = 0; chunk < 3; ++chunk) {
        std::vector<float> x = numbers.normal(8 * 32), v = numbers.normal(8 * 32), weights(8, 1.0f);
        weights[2] = weights[5] = weights[7] = 0.0f;
        clean.learn(x.data(), v.data(), weights.data(), 8);
        weights.assign(8, 1.0f);
        x[2 * 32 + 5] = std::numeric_limits<float>::quiet_NaN();
        v[5 * 32 + 31] = std::numeric_limits<float>::infinity();
        weights[7] = -std::numeric_limits<float>::infinity();
        dirty.learn(x.data(), v.data(), weights.data(), 8);
    }
    EXPECT_EQ(dirty.stats().skipped_pairs, 9u);
    EXPECT_EQ(dirty.stats().pairs, 15u);
    EXPECT_EQ(clean.stats().skipped_pairs, 0u);
    for (size_t i = 0; i < clean.parameters().size(); ++i)
        ASSERT_EQ(clean.parameters()[i], dirty.parameters()[i]) << "as if the pairs had weight 0";
}

TEST(OmegaGuard, UndoesAnUpdateThatOverflows) {
    Numbers numbers(46);
    OmegaLearner learner({MemoryKind::kDeep, 32, 32, 64, 0.0f, false}, rule(1, 1.0, 0.0, 1.0, 1e6), 1);
    std::vector<float> x = numbers.normal(4 * 32), v = numbers.normal(4 * 32, 1e36);
    const std::vector<float> before(learner.parameters().begin(), learner.parameters().end());
    learner.learn(x.data(), v.data(), nullptr, 4);
    EXPECT_EQ(learner.stats().skipped_updates, 1u);
    EXPECT_EQ(std::vector<float>(learner.parameters().begin(), learner.parameters().end()), before);
    learner.read(x.data(), 4, v.data());
    for (const float y : v) EXPECT_TRUE(std::isfinite(y));
}

TEST(OmegaState, SaveRestoreContinuesBitForBit) {
    Numbers numbers(47);
    const MemoryShape shape{MemoryKind::kGated, 32, 32, 40, 1.0f, true};
    const OmegaConfig config = rule(7, 0.9, 0.9, 0.99, 1e-3);
    OmegaLearner a(shape, config, 1), b(shape, config, 2);
    const auto feed = [&](OmegaLearner* learner, uint64_t seed) {
        Numbers more(seed);
        const std::vector<float> x = more.normal(20 * 32), v = more.normal(20 * 32);
        learner->learn(x.data(), v.data(), nullptr, 20);
    };
    feed(&a, 1);
    std::vector<std::byte> state;
    a.save(&state);
    ASSERT_TRUE(b.restore(state).is_ok());
    feed(&a, 2);
    feed(&b, 2);
    for (size_t i = 0; i < a.parameters().size(); ++i) ASSERT_EQ(a.parameters()[i], b.parameters()[i]);
    EXPECT_EQ(a.stats().pairs, b.stats().pairs);

    // Refusals leave the state as it was.
    const std::vector<float> kept(b.parameters().begin(), b.parameters().end());
    std::vector<std::byte> bad = state;
    bad[bad.size() / 2] ^= std::byte{1};
    EXPECT_EQ(b.restore(bad).code(), StatusCode::kCorrupt);
    bad = state;
    bad.pop_back();
    EXPECT_EQ(b.restore(bad).code(), StatusCode::kCorrupt);
    EXPECT_EQ(b.restore({}).code(), StatusCode::kCorrupt);
    OmegaLearner other({MemoryKind::kGated, 32, 32, 41, 1.0f, true}, config, 1);
    EXPECT_EQ(other.restore(state).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(std::vector<float>(b.parameters().begin(), b.parameters().end()), kept);
    a.reset();
    b.reset();
    EXPECT_EQ(a.stats().pairs, 0u);
    EXPECT_EQ(a.window().size(), 0u);
}

TEST(OmegaCheck, NamesTheValue) {
    EXPECT_TRUE(check_omega(OmegaConfig{}).is_ok());
    OmegaConfig config;
    config.window = 0;
    EXPECT_NE(check_omega(config).message().find("window 0"), std::string::npos);
    config = {};
    config.momentum = 1.0;
    EXPECT_FALSE(check_omega(config).is_ok());
    config = {};
    config.retention = NAN;
    EXPECT_FALSE(check_omega(config).is_ok());
}

TEST(PairWindowTest, KeepsTheLastInOrder) {
    PairWindow window(3, 1, 2);
    for (float i = 0; i < 5; ++i) {
        const float v[] = {i, -i};
        window.push(&i, v, nullptr, 1);
        EXPECT_EQ(window.size(), std::min<size_t>(3, static_cast<size_t>(i) + 1));
    }
    float x[3], v[6], weights[3];
    window.copy(x, v, weights);
    EXPECT_EQ((std::vector<float>(x, x + 3)), (std::vector<float>{2, 3, 4}));
    EXPECT_EQ((std::vector<float>(v, v + 6)), (std::vector<float>{2, -2, 3, -3, 4, -4}));
    const float many[] = {10, 11, 12, 13}, pairs[8] = {}, gates[] = {1, 2, 3, 4};
    window.push(many, pairs, gates, 4);
    window.copy(x, v, weights);
    EXPECT_EQ((std::vector<float>(x, x + 3)), (std::vector<float>{11, 12, 13}));
    EXPECT_EQ(weights[0], 2.0f);
    EXPECT_DOUBLE_EQ(window.fill_ratio(), 1.0);
    PairWindow none(0, 4, 4);
    none.push(many, pairs, nullptr, 1);
    EXPECT_EQ(none.size(), 0u);
}

}  // namespace
}  // namespace atlas::memory
