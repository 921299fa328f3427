#include "side_car/calibration.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "side_car/writing.h"

namespace atlas::side_car {
namespace {

constexpr size_t kD = 8;

/** Documents of one head: a residual that is a fixed linear function of the query's direction, plus another one for each document. */
class Head {
public:
    Head(int layer, int64_t kv_head, unsigned seed) : layer_(layer), kv_head_(kv_head), random_(seed) {
        for (float& x : common_) x = normal_(random_);
    }

    double own = 0.5;           ///< size of the document's own function
    double common = 1.0;        ///< of the fixed one
    double noise = 0.2;         //
    double mass_error = 0.0;    ///< ln(exact mass / estimated mass)
    double estimate_error = 0;  ///< of the estimate, unpredictable

    void add_document(Calibration* calibration, int n) {
        std::vector<float> mine(kD * (kD + 1));
        for (float& x : mine) x = normal_(random_);
        for (int i = 0; i < n; ++i) {
            std::vector<float> q(kD), near(kD), far(kD), residual(kD);
            double length = 0.0;
            for (float& x : q) {
                x = normal_(random_);
                length += static_cast<double>(x * x);
            }
            length = std::sqrt(length);
            for (size_t o = 0; o < kD; ++o) {
                near[o] = normal_(random_);
                const double wrong = estimate_error * normal_(random_);
                double r = noise * normal_(random_) + common * common_[o] + own * mine[o] - wrong;
                for (size_t j = 0; j < kD; ++j)
                    r += (common * common_[kD + o * kD + j] + own * mine[kD + o * kD + j]) * q[j] / length;
                far[o] = static_cast<float>(normal_(random_) + wrong);
                residual[o] = static_cast<float>(r);
            }
            const float exact_lse = 5.0f + 0.1f * normal_(random_);
            calibration->add({layer_, kv_head_, kD, kD, q.data(), near.data(), far.data(), residual.data(), 5.0f,
                              exact_lse - static_cast<float>(mass_error), exact_lse, 32.0});
        }
    }

private:
    int layer_;
    int64_t kv_head_;
    std::mt19937 random_;
    std::normal_distribution<float> normal_;
    std::vector<float> common_ = std::vector<float>(kD * (kD + 1));
};

struct Result {
    SideCar side_car;
    CalibrationReport report;
};

Result calibrate(const MemoryOptions& options, std::vector<Head> heads, int64_t n_head_kv, int observations = 120) {
    Calibration calibration(options, 1);
    for (int layer = 0; layer < 3; ++layer) calibration.see(layer, n_head_kv, kD, kD);
    for (int document = 0; document < 8; ++document) {
        calibration.begin_document(document % 4 == 3);
        for (Head& head : heads) head.add_document(&calibration, observations);
    }
    Result result;
    const Status status = calibration.finish(2, &result.side_car, &result.report);
    EXPECT_TRUE(status.is_ok()) << status.to_string();
    return result;
}

TEST(CalibrationTest, FindsWhatDocumentsHaveInCommon) {
    for (const FarMemoryKind kind : {FarMemoryKind::kLeastSquares, FarMemoryKind::kLinear, FarMemoryKind::kDeep}) {
        MemoryOptions options;
        options.kind = kind;
        if (kind != FarMemoryKind::kLeastSquares)
            options.muon_iterations = 0, options.step = 0.001, options.hidden = 32;
        const auto [side_car, report] = calibrate(options, {Head(1, 0, 3), Head(2, 0, 4)}, 1);
        EXPECT_EQ(report.heads, 2);
        EXPECT_EQ(report.calibrated, 2);
        EXPECT_LT(report.errors.calibrated, 0.8 * report.errors.learning);
        EXPECT_LE(report.errors.learning, report.errors.estimate);
        EXPECT_LE(report.errors.best, report.errors.calibrated * 1.000001);
        EXPECT_TRUE(side_car.enabled);
        EXPECT_EQ(side_car.layer_count, 3);
        ASSERT_EQ(side_car.layers.size(), 2u);
        EXPECT_EQ(side_car.layers[0], (SideCarLayer{1, 1, kD, kD}));
        EXPECT_EQ(side_car.origin.documents, 6);
        EXPECT_EQ(side_car.origin.held_out, 2);
        EXPECT_EQ(side_car.origin.observations, 2 * 6 * 120);
        const auto& state = side_car.memories.at({1, 0}).state;
        ASSERT_TRUE(state);
        EXPECT_GT(state->gate, 0.5);
        gguf::Content content;
        EXPECT_TRUE(encode_side_car(side_car, &content).is_ok());
    }
}

/** Where documents have nothing in common, what was fitted must not be worse than learning from nothing. */
TEST(CalibrationTest, NothingInCommonCostsNothing) {
    Head head(1, 0, 5);
    head.common = 0.0;
    head.own = 1.0;
    const auto [side_car, report] = calibrate({}, {head}, 1);
    EXPECT_LE(report.errors.best, report.errors.learning);
    EXPECT_LT(report.errors.best, report.errors.estimate);
}

TEST(CalibrationTest, HeadsGetWhatHeldOutProbesAskFor) {
    Head biased(1, 0, 6), useless(1, 1, 7), wrong(1, 2, 8);
    biased.mass_error = 0.7;
    // Unpredictable residuals: no memory can help, and the gate stays shut.
    useless.common = useless.own = 0.0;
    useless.noise = 1.0;
    // An estimate that is far off, in ways that nothing tells: leaving it out is best.
    wrong.common = wrong.own = 0.0;
    wrong.estimate_error = 4.0;
    const auto [side_car, report] = calibrate({}, {biased, useless, wrong}, 3);
    EXPECT_NEAR(side_car.memories.at({1, 0}).mass_bias, 0.7f, 0.05f);
    EXPECT_EQ(report.biased >= 1, true);
    EXPECT_TRUE(side_car.memories.at({1, 1}).far);
    EXPECT_FALSE(side_car.memories.at({1, 2}).far);
    EXPECT_EQ(report.dropped, 1);
    EXPECT_LT(report.errors.best, report.errors.estimate);
    EXPECT_LT(report.errors.biased, report.errors.estimate);
}

TEST(CalibrationTest, WithoutProbesThereIsNoFile) {
    Result result;
    {
        Calibration calibration({}, 1);
        calibration.begin_document(false);
        const Status status = calibration.finish(1, &result.side_car, &result.report);
        EXPECT_NE(status.message().find("ATLAS_THRESHOLD"), std::string::npos);
    }
    Calibration calibration({}, 1);
    calibration.see(1, 1, kD, kD);
    calibration.begin_document(false);
    Head(1, 0, 1).add_document(&calibration, 10);
    EXPECT_FALSE(calibration.finish(1, &result.side_car, &result.report).is_ok()) << "nothing was held out";
}

/** Numbers that are not finite are left out. */
TEST(CalibrationTest, BadProbesAreLeftOut) {
    Calibration calibration({}, 1);
    calibration.see(0, 1, kD, kD);
    Head head(0, 0, 2);
    for (int document = 0; document < 4; ++document) {
        calibration.begin_document(document == 3);
        head.add_document(&calibration, 50);
        const std::vector<float> bad(kD, NAN), good(kD, 1.0f);
        calibration.add({0, 0, kD, kD, bad.data(), good.data(), good.data(), good.data(), 1, 1, 1, 32});
        calibration.add({0, 0, kD, kD, good.data(), good.data(), good.data(), bad.data(), 1, 1, 1, 32});
        calibration.add({0, 0, kD, kD, good.data(), good.data(), good.data(), good.data(), 1, HUGE_VALF, 1, 32});
    }
    Result result;
    ASSERT_TRUE(calibration.finish(1, &result.side_car, &result.report).is_ok());
    EXPECT_EQ(result.side_car.origin.observations, 150);
    EXPECT_TRUE(std::isfinite(result.report.errors.best));
}

}  // namespace
}  // namespace atlas::side_car
