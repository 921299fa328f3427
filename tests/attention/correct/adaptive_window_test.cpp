#include "attention/correct/adaptive_window.h"

#include <gtest/gtest.h>

#include "fixture.h"

namespace atlas::attention {
namespace {

void observe(AdaptiveWindow* window, int layer, int64_t head, double error, int times = 64) {
    for (int i = 0; i < times; ++i) window->observe(layer, head, error, 1.0, 8.0);
}

TEST(AdaptiveWindow, GivesMoreToHeadsThatErrMoreAndKeepsTheSum) {
    AdaptiveWindow window(0);
    window.add(0, 2.0, {true, true});
    window.add(1, 1.0, {true, true, false});
    for (int64_t head = 0; head < 2; ++head) {
        observe(&window, 0, head, 0.01);
        observe(&window, 1, head, head == 0 ? 0.3 : 0.02);
    }
    window.begin(1);
    EXPECT_EQ(window.factor(1, 0), 1.0) << "only the first layer changes shares";
    window.begin(0);
    EXPECT_GT(window.factor(1, 0), 1.5);
    EXPECT_GT(window.factor(1, 1), window.factor(0, 0)) << "the first layer has twice the budget to begin with";
    EXPECT_EQ(window.factor(1, 2), 1.0) << "takes no part";
    const double sum = 2.0 * (window.factor(0, 0) + window.factor(0, 1)) + window.factor(1, 0) + window.factor(1, 1);
    EXPECT_NEAR(sum, 6.0, 1e-6);
    EXPECT_EQ(window.factor(7, 0), 1.0);
}

/** Errors that follow the assumed law, measured at whatever share a head has: the shares that minimise the sum are found, and kept. */
TEST(AdaptiveWindow, SettlesWhereTheSumOfErrorsIsLeast) {
    const std::vector<double> c{1.0, 2.0, 4.0, 6.0};
    AdaptiveWindow window(0);
    window.add(3, 1.0, {true, true, true, true});
    std::vector<double> best;
    double sum = 0.0;
    for (const double x : c) sum += std::pow(x, 2.0 / 3.0);
    for (const double x : c) best.push_back(4.0 * std::pow(x, 2.0 / 3.0) / sum);
    for (int round = 0; round < 10; ++round) {
        for (size_t i = 0; i < c.size(); ++i) {
            const auto head = static_cast<int64_t>(i);
            observe(&window, 3, head, 0.01 * c[i] / std::sqrt(window.factor(3, head)));
        }
        window.begin(3);
        for (size_t i = 0; i < c.size(); ++i) EXPECT_NEAR(window.factor(3, static_cast<int64_t>(i)), best[i], 1e-6);
    }
}

TEST(AdaptiveWindow, StaysPutWhereHeadsErrAlike) {
    AdaptiveWindow window(0);
    window.add(0, 1.0, {true, true, true});
    for (int64_t head = 0; head < 3; ++head) observe(&window, 0, head, 0.05);
    window.begin(0);
    for (int64_t head = 0; head < 3; ++head) EXPECT_NEAR(window.factor(0, head), 1.0, 1e-9);
    AdaptiveWindow faultless(0);
    faultless.add(0, 1.0, {true, true});
    for (int64_t head = 0; head < 2; ++head) observe(&faultless, 0, head, 0.0);
    faultless.begin(0);
    EXPECT_EQ(faultless.factor(0, 0), 1.0);
}

TEST(AdaptiveWindow, NeverLeavesItsBounds) {
    AdaptiveWindow window(0);
    window.add(0, 1.0, std::vector<bool>(16, true));
    observe(&window, 0, 0, 1.0);
    for (int64_t head = 1; head < 16; ++head) observe(&window, 0, head, head < 8 ? 1e-9 : 0.0);
    window.observe(0, 1, NAN, 1.0, 8.0);
    window.begin(0);
    for (int64_t head = 0; head < 16; ++head) {
        EXPECT_GE(window.factor(0, head), AdaptiveWindow::kLeast);
        EXPECT_LE(window.factor(0, head), AdaptiveWindow::kMost);
    }
    EXPECT_EQ(window.factor(0, 0), AdaptiveWindow::kMost);
}

TEST(AdaptiveWindow, WaitsUntilItKnows) {
    AdaptiveWindow window(1000);
    window.add(0, 1.0, {true, true});
    const auto changed = [&] {
        window.begin(0);
        return window.factor(0, 0) != 1.0;
    };
    observe(&window, 0, 0, 0.5, 400);
    EXPECT_FALSE(changed()) << "nothing is known of head 1";
    observe(&window, 0, 1, 0.01, 47);
    EXPECT_FALSE(changed());
    observe(&window, 0, 1, 0.01, 1);
    EXPECT_FALSE(changed()) << "384 of 1000 tokens";
    observe(&window, 0, 1, 0.01, 100);
    EXPECT_TRUE(changed());
    window.clear(0);
    EXPECT_FALSE(changed()) << "another text";
    observe(&window, 0, 0, 0.5, 400);
    observe(&window, 0, 1, 0.01, 400);
    EXPECT_TRUE(changed());
    window.leave(0, 1);
    EXPECT_FALSE(changed()) << "alone, a head keeps its budget";
    window.remove(0);
    EXPECT_FALSE(window.has(0));
}

Settings settings_of(int keys) {
    Settings settings = bare();
    settings.floor = settings.cap = keys;
    settings.first_layers = 0;
    return settings;
}

/** Mean NMSE of the last 20 of `calls` decoded tokens, whose queries of head h are `sharp[h / 2]` long; what was read of them. */
double decode(Scene* scene, const std::vector<float>& sharp, bool adaptive, int calls, int threads, LayerStats* read,
              std::vector<float>* last = nullptr, double* factor = nullptr) {
    KvIndex index = scene->make_index(32);
    MemoryOptions options;
    options.enabled = true;
    options.adaptive_window = adaptive;
    options.warm_up = 16;
    options.probe_every = 1;
    Engine engine(settings_of(256), options);
    std::mt19937 random(9);
    std::normal_distribution<float> normal;
    double error = 0.0;
    for (int i = 0; i < calls; ++i) {
        for (size_t x = 0; x < scene->q.size(); ++x)
            scene->q[x] = sharp[x / static_cast<size_t>(2 * scene->d)] * normal(random);
        EXPECT_TRUE(engine.attend(scene->args, scene->n_keys, index, {3, scene->base_pages.data()}, threads).is_ok());
        if (i >= calls - 20) error += nmse(scene->out, scene->exact());
    }
    *read = engine.totals();
    if (last) *last = scene->out;
    if (factor) *factor = engine.memory().budget_factor(0, 3, 1);
    return error / 20;
}

/** One head attends to everything alike, where an estimate is exact, the other to few keys: it gets what the first does not need. */
TEST(AdaptiveWindow, HelpsAHeadThatErrs) {
    Scene scene(2048, 1);
    LayerStats fixed, adapted;
    double factor = 0.0;
    const double without = decode(&scene, {0.05f, 3.0f}, false, 160, 1, &fixed);
    const double with = decode(&scene, {0.05f, 3.0f}, true, 160, 1, &adapted, nullptr, &factor);
    EXPECT_LT(with, 0.9 * without);
    EXPECT_GT(factor, 1.3);
    EXPECT_LE(adapted.exact_keys, 1.02 * fixed.exact_keys);
    EXPECT_GE(adapted.exact_keys, 0.9 * fixed.exact_keys);
}

TEST(AdaptiveWindow, LeavesHeadsThatErrAlikeAlone) {
    Scene scene(2048, 1);
    LayerStats read;
    double factor = 0.0;
    decode(&scene, {2.0f, 2.0f}, true, 160, 1, &read, nullptr, &factor);
    EXPECT_NEAR(factor, 1.0, 0.25);
}

/** Partial sums of a row depend on the threads, so that outputs agree to rounding; the shares are the same. */
TEST(AdaptiveWindow, DoesNotDependOnTheNumberOfThreads) {
    Scene scene(2048, 1);
    LayerStats reads[2];
    std::vector<float> last[2];
    double factors[2] = {};
    decode(&scene, {0.05f, 3.0f}, true, 100, 1, &reads[0], &last[0], &factors[0]);
    decode(&scene, {0.05f, 3.0f}, true, 100, 3, &reads[1], &last[1], &factors[1]);
    EXPECT_GT(factors[0], 1.3);
    EXPECT_NEAR(factors[0], factors[1], 1e-6);
    EXPECT_EQ(reads[0].exact_keys, reads[1].exact_keys);
    EXPECT_LT(nmse(last[0], last[1]), 1e-10);
}

/** The layers of a sequence share one window: what layer 3 does not need goes to layer 4. */
TEST(AdaptiveWindow, IsSharedByTheLayersOfASequence) {
    Scene scene(2048, 1);
    KvIndex first = scene.make_index(32), second = scene.make_index(32);
    MemoryOptions options;
    options.enabled = true;
    options.warm_up = 16;
    options.probe_every = 1;
    Engine engine(settings_of(256), options);
    double factors[2] = {};
    for (int i = 0; i < 80; ++i) {
        for (int layer : {3, 4}) {
            for (float& x : scene.q) x = (layer == 3 ? 0.05f : 3.0f) * scene.normal(scene.random);
            ASSERT_TRUE(
                engine
                    .attend(scene.args, scene.n_keys, layer == 3 ? first : second, {layer, scene.base_pages.data()}, 1)
                    .is_ok());
            factors[layer - 3] = engine.memory().budget_factor(0, layer, 0);
        }
    }
    EXPECT_LT(factors[0], 0.7);
    EXPECT_GT(factors[1], 1.3);
}

}  // namespace
}  // namespace atlas::attention
