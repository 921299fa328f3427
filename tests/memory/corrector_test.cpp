#include "memory/corrector.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "../numbers.h"

namespace atlas::memory {
namespace {

constexpr size_t kD = 16, kOut = 8;

CorrectorConfig config_for(bool least_squares) {
    CorrectorConfig config;
    config.memory.features = {FeatureType::kPolynomial, kD, 1, 256, 0.0, true, 1};
    config.memory.d_out = kOut;
    config.memory.kind = MemoryKind::kLinear;
    config.memory.chunk = 16;
    config.memory.omega.window = 4;
    config.memory.omega.momentum = 0.5;
    config.memory.omega.step = 0.008;
    config.least_squares = least_squares;
    config.warm_up = 32;
    return config;
}

/** r(q) = size·A q / ‖q‖ + noise. */
class Source {
public:
    explicit Source(uint64_t seed) : numbers_(seed), a_(numbers_.normal(kD * kOut)) {}

    void next(float size, float noise) {
        q = numbers_.normal(kD);
        r = numbers_.normal(kOut, static_cast<double>(noise));
        float length = 0.0f;
        for (const float x : q) length += x * x;
        for (size_t o = 0; o < kOut; ++o) {
            for (size_t j = 0; j < kD; ++j) r[o] += size * a_[o * kD + j] * q[j] / std::sqrt(length);
        }
    }

    std::vector<float> q, r;

private:
    Numbers numbers_;
    std::vector<float> a_;
};

double square(const std::vector<float>& x) {
    double sum = 0.0;
    for (const float value : x) sum += static_cast<double>(value * value);
    return sum;
}

class CorrectorTest : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Rules, CorrectorTest, testing::Values(true, false),
                         [](const auto& info) { return info.param ? "least_squares" : "omega"; });

TEST_P(CorrectorTest, LearnsAResidualThatFollowsTheQuery) {
    Corrector corrector(config_for(GetParam()));
    Source source(1);
    for (int i = 0; i < 600; ++i) {
        source.next(3.0f, 0.3f);
        corrector.observe(source.q.data(), source.r.data(), 0.5f, 1.0);
    }
    EXPECT_GT(corrector.gate(), 0.9);
    EXPECT_LT(corrector.stats().error_with, 0.4 * corrector.stats().error_without);
    double before = 0.0, after = 0.0;
    for (int i = 0; i < 50; ++i) {
        source.next(3.0f, 0.3f);
        std::vector<float> left(kOut, 0.0f);
        corrector.correct(source.q.data(), 1, left.data());
        for (size_t o = 0; o < kOut; ++o) left[o] -= source.r[o];
        before += square(source.r);
        after += square(left);
    }
    EXPECT_LT(after, (GetParam() ? 0.15 : 0.4) * before);
}

/** Nothing to learn: whatever the gate does, the error with it is not above the error without by more than 2 %. */
TEST_P(CorrectorTest, NoiseKeepsTheGateNearZero) {
    Corrector corrector(config_for(GetParam()));
    Source source(2);
    double with = 0.0, without = 0.0;
    int closed = 0;
    for (int i = 0; i < 3000; ++i) {
        source.next(0.0f, 1.0f);
        std::vector<float> left(kOut, 0.0f);
        corrector.correct(source.q.data(), 1, left.data());
        for (size_t o = 0; o < kOut; ++o) left[o] -= source.r[o];
        with += square(left);
        without += square(source.r);
        corrector.observe(source.q.data(), source.r.data(), 1.0f, 1.0);
        closed += corrector.gate() == 0.0;
    }
    EXPECT_LT(with, 1.02 * without);
    EXPECT_GT(closed, 2400);
}

/** What was learned turns wrong: the gate closes, and opens again when it has been learned anew. */
TEST_P(CorrectorTest, TheGateFollowsAChange) {
    Corrector corrector(config_for(GetParam()));
    Source source(3);
    const auto run = [&](int n, float size) {
        double lowest = 1.0;
        for (int i = 0; i < n; ++i) {
            source.next(size, 0.2f);
            corrector.observe(source.q.data(), source.r.data(), 1.0f, 1.0);
            lowest = std::fmin(lowest, corrector.gate());
        }
        return lowest;
    };
    run(400, 2.0f);
    EXPECT_GT(corrector.gate(), 0.8);
    EXPECT_LT(run(400, -2.0f), 0.4) << "closed in between";
    run(2500, -2.0f);
    EXPECT_GT(corrector.gate(), 0.5);
}

TEST_P(CorrectorTest, WithGateZeroNothingIsWritten) {
    CorrectorConfig config = config_for(GetParam());
    config.warm_up = 1e9;
    Corrector corrector(config);
    Source source(4);
    for (int i = 0; i < 100; ++i) {
        source.next(3.0f, 0.1f);
        corrector.observe(source.q.data(), source.r.data(), 1.0f, 1.0);
    }
    std::vector<float> out = source.r;
    out[3] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> kept = out;
    corrector.correct(source.q.data(), 1, out.data());
    EXPECT_EQ(std::memcmp(out.data(), kept.data(), out.size() * 4), 0);
    EXPECT_LT(corrector.stats().error_with, corrector.stats().error_without) << "it learned, but may not speak yet";
}

TEST_P(CorrectorTest, BadNumbersAreLeftOut) {
    Corrector corrector(config_for(GetParam()));
    Source source(5);
    for (int i = 0; i < 200; ++i) {
        source.next(3.0f, 0.1f);
        if (i % 5 == 1) source.r[2] = std::numeric_limits<float>::infinity();
        if (i % 5 == 2) source.q[7] = std::numeric_limits<float>::quiet_NaN();
        corrector.observe(source.q.data(), source.r.data(), i % 5 == 3 ? std::numeric_limits<float>::quiet_NaN() : 1.0f,
                          1.0);
    }
    EXPECT_EQ(corrector.stats().observations, 80u);
    source.next(3.0f, 0.1f);
    std::vector<float> out(kOut, 0.0f);
    corrector.correct(source.q.data(), 1, out.data());
    for (const float x : out) EXPECT_TRUE(std::isfinite(x));
    corrector.reset();
    EXPECT_EQ(corrector.gate(), 0.0);
    EXPECT_EQ(corrector.stats().observations, 0u);
}

/** What one corrector learned is where another starts, and where that one's reset leads back to. */
TEST_P(CorrectorTest, StartsFromAnotherOnesState) {
    Corrector teacher(config_for(GetParam()));
    Source source(11);
    for (int i = 0; i < 600; ++i) {
        source.next(3.0f, 0.3f);
        teacher.observe(source.q.data(), source.r.data(), 1.0f, 1.0);
    }
    const auto state = std::make_shared<CorrectorState>(teacher.state());
    EXPECT_GT(state->gate, 0.5);
    Corrector pupil(config_for(GetParam()));
    ASSERT_TRUE(pupil.start_from(state).is_ok());
    const auto difference = [&] {
        source.next(3.0f, 0.0f);
        std::vector<float> a(kOut, 0.0f), b(kOut, 0.0f);
        teacher.correct(source.q.data(), 1, a.data());
        pupil.correct(source.q.data(), 1, b.data());
        double most = 0.0;
        for (size_t i = 0; i < kOut; ++i) most = std::fmax(most, static_cast<double>(std::fabs(a[i] - b[i])));
        return most / std::sqrt(square(a));
    };
    EXPECT_LT(difference(), 1e-5);
    for (int i = 0; i < 300; ++i) {
        source.next(-3.0f, 0.3f);
        pupil.observe(source.q.data(), source.r.data(), 1.0f, 1.0);
    }
    EXPECT_GT(difference(), 0.1) << "it goes on learning";
    pupil.reset();
    EXPECT_LT(difference(), 1e-5);
}

TEST_P(CorrectorTest, RefusesAStateThatDoesNotFit) {
    Corrector corrector(config_for(GetParam()));
    Source source(12);
    source.next(3.0f, 0.0f);
    corrector.observe(source.q.data(), source.r.data(), 1.0f, 1.0);
    const CorrectorState good = corrector.state();
    const auto refused = [&](const std::function<void(CorrectorState*)>& spoil) {
        auto state = std::make_shared<CorrectorState>(good);
        spoil(state.get());
        return !corrector.start_from(state).is_ok();
    };
    EXPECT_FALSE(refused([](CorrectorState*) {}));
    EXPECT_TRUE(refused([](CorrectorState* s) { s->weights.pop_back(); }));
    EXPECT_TRUE(refused([](CorrectorState* s) { s->momentum.push_back(0.0f); }));
    EXPECT_TRUE(refused([](CorrectorState* s) { s->coefficients.push_back(1.0); }));
    EXPECT_TRUE(refused([](CorrectorState* s) { s->weights[1] = std::numeric_limits<float>::quiet_NaN(); }));
    EXPECT_TRUE(refused([](CorrectorState* s) { s->scale = 0.0; }));
    EXPECT_TRUE(refused([](CorrectorState* s) { s->gate = 2.0; }));
    EXPECT_TRUE(refused([](CorrectorState* s) { s->evidence[2] = std::numeric_limits<double>::infinity(); }));
}

/** What was known about errors decides how much a few bad observations count against the gate. */
TEST(CorrectorGate, EvidenceOutweighsAFewBadObservations) {
    CorrectorConfig config = config_for(true);
    Corrector teacher(config);
    Source source(13);
    for (int i = 0; i < 600; ++i) {
        source.next(3.0f, 0.3f);
        teacher.observe(source.q.data(), source.r.data(), 1.0f, 1.0);
    }
    CorrectorState known = teacher.state();
    CorrectorState unknown = known;
    unknown.evidence = {};
    config.learn = false;
    Corrector with(config), without(config);
    ASSERT_TRUE(with.start_from(std::make_shared<CorrectorState>(known)).is_ok());
    ASSERT_TRUE(without.start_from(std::make_shared<CorrectorState>(unknown)).is_ok());
    for (int i = 0; i < 4; ++i) {
        source.next(-3.0f, 0.0f);
        for (Corrector* one : {&with, &without}) one->observe(source.q.data(), source.r.data(), 1.0f, 32.0);
    }
    EXPECT_GT(with.gate(), 0.8 * known.gate);
    EXPECT_LT(without.gate(), 0.7 * known.gate);
    for (int i = 0; i < 200; ++i) {
        source.next(-3.0f, 0.0f);
        with.observe(source.q.data(), source.r.data(), 1.0f, 32.0);
    }
    EXPECT_EQ(with.gate(), 0.0) << "in the end the errors of now decide";
}

/** Fixed blend (the plain mode to compare with): the gate is its ceiling from the warm-up on. */
TEST(CorrectorGate, FixedBlendIgnoresErrors) {
    CorrectorConfig config = config_for(true);
    config.dynamic_gate = false;
    config.gate_limit = 0.1;
    Corrector corrector(config);
    Source source(6);
    for (int i = 0; i < 40; ++i) {
        source.next(0.0f, 1.0f);
        corrector.observe(source.q.data(), source.r.data(), 1.0f, 1.0);
        EXPECT_EQ(corrector.gate(), i < 31 ? 0.0 : 0.1) << i;
    }
}

/** Inputs that span one direction only: P must not wind up where nothing is seen. */
TEST(CorrectorGate, StreamsWithoutWindUp) {
    CorrectorConfig config = config_for(true);
    config.forgetting = 0.99;
    Corrector corrector(config);
    Source source(7);
    source.next(3.0f, 0.0f);
    const std::vector<float> q = source.q;
    Numbers numbers(8);
    size_t bytes = 0;
    for (int i = 0; i < 100000; ++i) {
        const std::vector<float> noise = numbers.normal(kOut, 0.1);
        std::vector<float> r = source.r;
        for (size_t o = 0; o < kOut; ++o) r[o] += noise[o];
        corrector.observe(q.data(), r.data(), 1.0f, 1.0);
        if (i == 1000) bytes = corrector.bytes();
    }
    EXPECT_EQ(corrector.bytes(), bytes);
    source.next(3.0f, 0.0f);
    std::vector<float> out(kOut, 0.0f);
    corrector.correct(source.q.data(), 1, out.data());
    EXPECT_LT(square(out), 10.0 * square(source.r)) << "an unseen direction gets a moderate answer";
}

TEST(CorrectorCheck, RefusesWhatCannotWork) {
    CorrectorConfig config = config_for(true);
    EXPECT_TRUE(check_corrector(config).is_ok());
    config.memory.features = {FeatureType::kPolynomial, 64, 2};
    EXPECT_NE(check_corrector(config).message().find("2145 features"), std::string::npos);
    config.least_squares = false;
    EXPECT_TRUE(check_corrector(config).is_ok());
}

}  // namespace
}  // namespace atlas::memory
