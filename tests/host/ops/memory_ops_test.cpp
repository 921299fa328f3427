#include <atlas/memory_ops.h>
#include <dlfcn.h>
#include <ggml-cpu.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "memory/reference/deep_memory.h"
#include "memory/reference/feature_map.h"
#include "memory/reference/muon.h"
#include "memory/test_time_memory.h"
#include "plugin.h"

namespace atlas::host::test {
namespace {

/** The functions as a program finds them: in the loaded plug-in. */
template <class F>
F* symbol(const char* name, F* /*type*/) {
    static void* library = dlopen(ATLAS_PLUGIN, RTLD_NOW | RTLD_LOCAL);
    EXPECT_NE(library, nullptr) << dlerror();
    void* found = library ? dlsym(library, name) : nullptr;
    EXPECT_NE(found, nullptr) << name;
    return reinterpret_cast<F*>(found);
}
#define ATLAS_CALL(name) (*symbol(#name, static_cast<decltype(&name)>(nullptr)))

class MemoryOps : public ::testing::Test {
protected:
    void SetUp() override {
        ASSERT_NE(load_plugin(), nullptr);
        params_.size = sizeof params_;
        ASSERT_EQ(ATLAS_CALL(atlas_memory_default_params)(&params_), ATLAS_OK);
        params_.d_key = 24;
        params_.d_value = 20;
        params_.chunk = 8;
        params_.hidden = 40;
        params_.step = 0.03;
    }
    void TearDown() override { ATLAS_CALL(atlas_memory_free)(memory_); }

    atlas_memory* make() {
        EXPECT_EQ(ATLAS_CALL(atlas_memory_create)(&params_, &memory_), ATLAS_OK) << error();
        return memory_;
    }

    static std::string error() { return ATLAS_CALL(atlas_last_error)(); }
    static void refused(atlas_status expected, atlas_status status, const std::string& named) {
        EXPECT_EQ(status, expected);
        EXPECT_NE(error().find(named), std::string::npos) << error();
    }

    /** The node that a builder adds. */
    template <class Build, class... Arguments>
    static ggml_tensor* node(Build build, Arguments... arguments) {
        ggml_tensor* made = nullptr;
        EXPECT_EQ(build(arguments..., &made), ATLAS_OK) << error();
        return made;
    }

    /** The same memory in this process, to compare with. */
    memory::MemoryConfig config() const {
        memory::MemoryConfig config;
        config.features = {memory::FeatureType::kPolynomial, 24, 2, 256, 0.0, true, 1};
        config.kind = memory::MemoryKind::kDeep;
        config.d_out = 20;
        config.hidden = 40;
        config.omega.step = params_.step;
        config.omega.orthogonalize = memory::NewtonSchulz::kStandard;
        config.chunk = 8;
        return config;
    }

    /** With a graph of a few nodes, so that the context has room for many. */
    static ggml_status run(Bench* bench, ggml_tensor* node) {
        ggml_cgraph* graph = ggml_new_graph_custom(bench->context(), 8, false);
        ggml_build_forward_expand(graph, node);
        return ggml_backend_graph_compute(bench->backend(), graph);
    }

    ggml_tensor* input(Bench* bench, const char* name, std::vector<int64_t> shape) {
        return bench->tensor(name, GGML_TYPE_F32, std::move(shape));
    }

    atlas_memory_params params_{};
    atlas_memory* memory_ = nullptr;
};

TEST_F(MemoryOps, FeatureMapEqualsFloat64) {
    Bench bench(cpu_device());
    ggml_tensor* x = input(&bench, "x", {24, 7, 3});
    ggml_tensor* y = node(ATLAS_CALL(atlas_feature_map), bench.context(), make(), x);
    ASSERT_NE(y, nullptr);
    EXPECT_EQ(y->ne[0], 325);
    EXPECT_EQ(ggml_nrows(y), 21);
    ASSERT_NE(bench.allocate(), nullptr);
    const std::vector<float> values = noise(24 * 21, 1);
    Bench::set(x, values);
    ASSERT_EQ(run(&bench, y), GGML_STATUS_SUCCESS);
    const std::vector<float> got = Bench::floats(y);
    const memory::FeatureMap map(config().features);
    const std::vector<double> wide(values.begin(), values.end());
    for (size_t row = 0; row < 21; ++row) {
        const std::vector<double> expected = memory::reference::map_features(map, wide.data() + row * 24);
        for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(got[row * 325 + i], expected[i], 1e-6);
    }
}

TEST_F(MemoryOps, UpdateLearnsForwardReadsAndLossFalls) {
    Bench bench(cpu_device());
    ggml_tensor* keys = input(&bench, "k", {24, 16});
    ggml_tensor* values = input(&bench, "v", {20, 16});
    atlas_memory* memory = make();
    ggml_tensor* loss = node(ATLAS_CALL(atlas_omega_loss), bench.context(), memory, keys, values);
    ggml_tensor* update = node(ATLAS_CALL(atlas_memory_update), bench.context(), memory, keys, values);
    ggml_tensor* read = node(ATLAS_CALL(atlas_memory_forward), bench.context(), memory, keys);
    ASSERT_TRUE(loss && update && read);
    ASSERT_NE(bench.allocate(), nullptr);
    const std::vector<float> k = noise(24 * 16, 2), v = noise(20 * 16, 3);
    Bench::set(keys, k);
    Bench::set(values, v);
    ASSERT_EQ(run(&bench, loss), GGML_STATUS_SUCCESS);
    double expected = 0.0;
    for (const float x : v) expected += static_cast<double>(x * x);
    const float before = Bench::floats(loss)[0];
    EXPECT_NEAR(before, expected, 1e-4 * expected) << "a new memory answers 0, decay is 1, and the window is 16";

    memory::TestTimeMemory ours(config());
    for (int i = 0; i < 30; ++i) {
        ASSERT_EQ(run(&bench, update), GGML_STATUS_SUCCESS);
        ours.learn(k.data(), v.data(), nullptr, 16);
    }
    EXPECT_FLOAT_EQ(Bench::floats(update)[0], static_cast<float>(ours.learner().stats().loss));
    ASSERT_EQ(run(&bench, read), GGML_STATUS_SUCCESS);
    std::vector<float> answers(20 * 16);
    ours.read(k.data(), 16, answers.data());
    EXPECT_LT(nmse(answers, Bench::floats(read)), 1e-10);
    ASSERT_EQ(run(&bench, loss), GGML_STATUS_SUCCESS);
    EXPECT_LT(Bench::floats(loss)[0], 0.5f * before);

    atlas_memory_stats stats{};
    stats.size = sizeof stats;
    ASSERT_EQ(ATLAS_CALL(atlas_memory_get_stats)(memory, &stats), ATLAS_OK);
    EXPECT_EQ(stats.pairs, 480u);
    EXPECT_EQ(stats.muon_steps, 120u) << "two matrices, two chunks, thirty times";
    EXPECT_DOUBLE_EQ(stats.window_fill, 1.0);
}

TEST_F(MemoryOps, MuonStepEqualsFloat64) {
    for (const auto& [kind, ours] : {std::pair{ATLAS_MUON_STANDARD, memory::NewtonSchulz::kStandard},
                                     {ATLAS_MUON_POLAR_EXPRESS, memory::NewtonSchulz::kPolarExpress},
                                     {ATLAS_MUON_NONE, memory::NewtonSchulz::kNone}}) {
        Bench bench(cpu_device());
        ggml_tensor* s = input(&bench, "s", {12, 30, 2});
        ggml_tensor* out = node(ATLAS_CALL(atlas_muon_step), bench.context(), s, kind);
        ASSERT_NE(out, nullptr);
        ASSERT_NE(bench.allocate(), nullptr);
        const std::vector<float> values = noise(12 * 30 * 2, 5);
        Bench::set(s, values);
        ASSERT_EQ(run(&bench, out), GGML_STATUS_SUCCESS);
        const std::vector<float> got = Bench::floats(out);
        for (size_t i = 0; i < 2; ++i) {
            const auto at = static_cast<std::ptrdiff_t>(i * 360);
            const std::vector<double> expected = memory::reference::muon_step(
                ours, 30, 12, std::vector<double>(values.begin() + at, values.begin() + at + 360));
            for (size_t j = 0; j < 360; ++j) ASSERT_NEAR(got[i * 360 + j], expected[j], 1e-5);
        }
    }
}

TEST_F(MemoryOps, StateGoesRound) {
    Bench bench(cpu_device());
    ggml_tensor* keys = input(&bench, "k", {24, 8});
    ggml_tensor* values = input(&bench, "v", {20, 8});
    atlas_memory* memory = make();
    ggml_tensor* update = node(ATLAS_CALL(atlas_memory_update), bench.context(), memory, keys, values);
    ggml_tensor* read = node(ATLAS_CALL(atlas_memory_forward), bench.context(), memory, keys);
    ASSERT_NE(bench.allocate(), nullptr);
    Bench::set(keys, noise(24 * 8, 6));
    Bench::set(values, noise(20 * 8, 7));
    ASSERT_EQ(run(&bench, update), GGML_STATUS_SUCCESS);
    ASSERT_EQ(run(&bench, read), GGML_STATUS_SUCCESS);
    const std::vector<float> learned = Bench::floats(read);
    size_t bytes = 0, written = 7;
    ASSERT_EQ(ATLAS_CALL(atlas_memory_state_size)(memory, &bytes), ATLAS_OK);
    std::vector<char> state(bytes);
    refused(ATLAS_INVALID_ARGUMENT, ATLAS_CALL(atlas_memory_save)(memory, state.data(), bytes - 1, &written),
            "size " + std::to_string(bytes - 1) + ": the state has " + std::to_string(bytes));
    EXPECT_EQ(written, 7u);
    ASSERT_EQ(ATLAS_CALL(atlas_memory_save)(memory, state.data(), bytes, &written), ATLAS_OK);
    EXPECT_EQ(written, bytes);
    ASSERT_EQ(ATLAS_CALL(atlas_memory_reset)(memory), ATLAS_OK);
    ASSERT_EQ(run(&bench, read), GGML_STATUS_SUCCESS);
    EXPECT_EQ(Bench::floats(read), std::vector<float>(160, 0.0f));
    EXPECT_LT(ATLAS_CALL(atlas_memory_restore)(memory, state.data(), bytes - 1), 0);
    ASSERT_EQ(ATLAS_CALL(atlas_memory_restore)(memory, state.data(), bytes), ATLAS_OK);
    ASSERT_EQ(run(&bench, read), GGML_STATUS_SUCCESS);
    EXPECT_EQ(Bench::floats(read), learned);
}

TEST_F(MemoryOps, RefuseWhatDoesNotFit) {
    Bench bench(cpu_device());
    atlas_memory* memory = make();
    ggml_tensor* none = nullptr;
    const auto forward = ATLAS_CALL(atlas_memory_forward);
    refused(ATLAS_INVALID_ARGUMENT, forward(bench.context(), memory, input(&bench, "narrow", {23, 2}), &none),
            "atlas_memory_forward: queries: contiguous f32 rows of 24 are needed, not f32 rows of 23");
    refused(ATLAS_INVALID_ARGUMENT,
            forward(bench.context(), memory, bench.tensor("half", GGML_TYPE_F16, {24, 2}), &none),
            "not f16 rows of 24");
    refused(ATLAS_INVALID_ARGUMENT, forward(bench.context(), memory, nullptr, &none), "queries is NULL");
    refused(ATLAS_INVALID_ARGUMENT,
            ATLAS_CALL(atlas_memory_update)(bench.context(), memory, input(&bench, "k", {24, 2}),
                                            input(&bench, "v", {20, 3}), &none),
            "2 keys for 3 values");
    refused(ATLAS_INVALID_ARGUMENT, ATLAS_CALL(atlas_omega_loss)(bench.context(), nullptr, nullptr, nullptr, &none),
            "memory is NULL");
    ggml_tensor* turned = ggml_transpose(bench.context(), input(&bench, "t", {2, 24}));
    refused(ATLAS_INVALID_ARGUMENT, ATLAS_CALL(atlas_feature_map)(bench.context(), memory, turned, &none),
            "not scattered f32");
    refused(ATLAS_INVALID_ARGUMENT,
            ATLAS_CALL(atlas_muon_step)(bench.context(), input(&bench, "s", {4, 4}), static_cast<atlas_muon_kind>(7),
                                        &none),
            "kind 7: allowed is 0 to 2");
    EXPECT_EQ(none, nullptr);

    atlas_memory* made = nullptr;
    const auto create = ATLAS_CALL(atlas_memory_create);
    atlas_memory_params bad = params_;
    bad.d_key = -1;
    EXPECT_EQ(create(&bad, &made), ATLAS_INVALID_ARGUMENT);
    bad = params_;
    bad.kind = static_cast<atlas_memory_kind>(9);
    refused(ATLAS_INVALID_ARGUMENT, create(&bad, &made), "params->kind 9: allowed is 0 to 2");
    bad = params_;
    bad.size = 8;
    refused(ATLAS_INVALID_ARGUMENT, create(&bad, &made), "params->size 8: set it to sizeof(*params)");
    refused(ATLAS_INVALID_ARGUMENT, ATLAS_CALL(atlas_memory_default_params)(&bad), "params->size 8");
    EXPECT_EQ(made, nullptr);
    struct {
        atlas_memory_params params;
        char more[64];
    } newer{params_, {}};
    newer.params.size = sizeof newer;
    ASSERT_EQ(create(&newer.params, &made), ATLAS_OK) << error();
    ATLAS_CALL(atlas_memory_free)(made);
}

/** ggml ends the process when a context is full. */
TEST_F(MemoryOps, AFullContextIsAnError) {
    atlas_memory* memory = make();
    for (const bool no_alloc : {true, false}) {
        ggml_context* ctx = ggml_init({3 * ggml_tensor_overhead() + 24 * 4 + 4096, nullptr, no_alloc});
        ggml_tensor* x = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, 24, 1);
        int added = 0;
        atlas_status status = ATLAS_OK;
        for (; status == ATLAS_OK && added < 100; ++added) {
            ggml_tensor* made = nullptr;
            status = ATLAS_CALL(atlas_feature_map)(ctx, memory, x, &made);
        }
        refused(ATLAS_OUT_OF_MEMORY, status, "bytes left, a node needs");
        EXPECT_GT(added, 1);
        ggml_free(ctx);
    }
}

}  // namespace
}  // namespace atlas::host::test
