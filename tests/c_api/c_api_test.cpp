#include <atlas/llama-atlas.h>
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <thread>

#include "fake_llama.h"
#include "plugin.h"

namespace atlas::host::test {
namespace {

/** A process that asked for nothing, with a planner that estimates at the sizes of these tests. */
class Environment : public ::testing::Environment {
public:
    void SetUp() override {
        for (const auto& [name, value] : {std::pair{"ATLAS_THRESHOLD", "256"},
                                          {"ATLAS_SINKS", "64"},
                                          {"ATLAS_WINDOW", "64"},
                                          {"ATLAS_BUDGET_FLOOR", "64"},
                                          {"ATLAS_BUDGET", "64"},
                                          {"ATLAS_WARM_UP", "4"},
                                          {"ATLAS_MEMORY_PROBE", "1"}})
            setenv(name, value, 1);
    }
};
const auto* const g_environment = ::testing::AddGlobalTestEnvironment(new Environment);

void* address_of(const char* name) { return ggml_backend_reg_get_proc_address(load_plugin(), name); }

/** Only the function's type is used: the test is not linked with the library. */
#define CALL(name) reinterpret_cast<decltype(&name)>(address_of(#name))

/** One context: a backend instance, and attention of two tokens over a cache of 1024 cells that it owns. */
class FakeContext {
public:
    explicit FakeContext(uint32_t seed = 1) : bench_(ggml_backend_dev_by_name("ATLAS0")) {
        k_ = bench_.tensor("cache_k_l0", GGML_TYPE_F16, {kHead * kHeadsKv, kCells});
        v_ = bench_.tensor("cache_v_l0", GGML_TYPE_F16, {kHead * kHeadsKv, kCells});
        q_ = bench_.tensor("q", GGML_TYPE_F32, {kHead, kTokens, kHeads});
        mask_ = bench_.tensor("mask", GGML_TYPE_F16, {kCells, kTokens});
        const auto heads = [&](ggml_tensor* cache) {
            return ggml_view_4d(bench_.context(), cache, kHead, kCells, kHeadsKv, 1, cache->nb[1],
                                ggml_row_size(cache->type, kHead), cache->nb[1] * kCells, 0);
        };
        out_ = ggml_flash_attn_ext(bench_.context(), q_, heads(k_), heads(v_), mask_, 1.0f / std::sqrt(float{kHead}),
                                   0.0f, 0.0f);
        graph_ = ggml_new_graph(bench_.context());
        ggml_build_forward_expand(graph_, out_);
        EXPECT_NE(bench_.allocate(), nullptr);
        Bench::set(k_, noise(static_cast<size_t>(ggml_nelements(k_)), seed));
        Bench::set(v_, noise(static_cast<size_t>(ggml_nelements(v_)), seed + 100));
        const std::vector<ggml_fp16_t> visible(kCells * kTokens, ggml_fp32_to_fp16(0.0f));
        ggml_backend_tensor_set(mask_, visible.data(), 0, ggml_nbytes(mask_));
        llama_.backends = {bench_.backend()};
    }

    llama_context* llama() { return &llama_; }

    std::vector<float> decode(uint32_t seed) {
        Bench::set(q_, noise(static_cast<size_t>(ggml_nelements(q_)), seed));
        EXPECT_EQ(ggml_backend_graph_compute(bench_.backend(), graph_), GGML_STATUS_SUCCESS);
        return Bench::floats(out_);
    }

    llama_atlas_stats stats() {
        llama_atlas_stats stats{};
        stats.size = sizeof stats;
        EXPECT_EQ(CALL(llama_get_atlas_stats)(llama(), &stats), ATLAS_OK) << CALL(atlas_last_error)();
        return stats;
    }

private:
    static constexpr int64_t kHead = 64, kHeadsKv = 2, kHeads = 4, kCells = 1024, kTokens = 2;
    Bench bench_;
    ggml_tensor *k_, *v_, *q_, *mask_, *out_;
    ggml_cgraph* graph_;
    llama_context llama_;
};

class CApi : public ::testing::Test {
protected:
    void SetUp() override { ASSERT_NE(load_plugin(), nullptr); }

    static std::string error() { return CALL(atlas_last_error)(); }
    static void expect_error(atlas_status expected, atlas_status status, const std::string& part) {
        EXPECT_EQ(status, expected);
        EXPECT_NE(error().find(part), std::string::npos) << error();
    }
};

TEST_F(CApi, StatusAndLibraryHaveNames) {
    EXPECT_EQ(address_of("llama_set_atlas_nonsense"), nullptr);
    EXPECT_STREQ(CALL(atlas_library_path)(), ATLAS_PLUGIN);
    const auto name = CALL(atlas_status_name);
    std::set<std::string> names;
    for (int status = ATLAS_CORRUPT; status <= ATLAS_OK; ++status)
        names.insert(name(static_cast<atlas_status>(status)));
    EXPECT_EQ(names.size(), 9u);
    EXPECT_FALSE(names.contains("unknown status"));
    EXPECT_STREQ(name(static_cast<atlas_status>(5)), "unknown status");
}

TEST_F(CApi, OffIsExactBitForBitAndOnEstimates) {
    FakeContext context;
    EXPECT_FALSE(context.stats().enabled);
    const std::vector<float> exact = context.decode(7);
    llama_atlas_stats stats = context.stats();
    EXPECT_EQ(stats.attention_calls, 1u);
    EXPECT_EQ(stats.estimated_calls, 0u);
    EXPECT_EQ(stats.retained_mass, 1.0);

    ASSERT_EQ(CALL(llama_set_atlas_enabled)(context.llama(), true), ATLAS_OK) << error();
    const std::vector<float> estimated = context.decode(7);
    EXPECT_NE(exact, estimated);
    EXPECT_LT(nmse(exact, estimated), 0.5);
    stats = context.stats();
    EXPECT_TRUE(stats.enabled);
    EXPECT_TRUE(stats.memory_enabled);
    EXPECT_EQ(stats.attention_calls, 2u);
    EXPECT_EQ(stats.estimated_calls, 1u);
    EXPECT_EQ(stats.visible_keys, 1024.0);
    EXPECT_LT(stats.exact_keys, 512.0);
    EXPECT_GT(stats.exact_keys, 64.0);
    EXPECT_GT(stats.retained_mass, 0.0);
    EXPECT_LT(stats.retained_mass, 1.0);
    EXPECT_GT(stats.index_mb, 0.0);

    ASSERT_EQ(CALL(llama_set_atlas_enabled)(context.llama(), false), ATLAS_OK);
    EXPECT_EQ(context.decode(7), exact);
    EXPECT_EQ(context.stats().estimated_calls, 1u);
}

TEST_F(CApi, MemoriesLearnAreCountedAndStartAnew) {
    FakeContext context;
    ASSERT_EQ(CALL(llama_set_atlas_enabled)(context.llama(), true), ATLAS_OK);
    for (uint32_t step = 0; step < 40; ++step) context.decode(step);
    llama_atlas_stats stats = context.stats();
    EXPECT_EQ(stats.memories, 2u);  // one per KV head
    EXPECT_GT(stats.observations, 20u);
    EXPECT_GT(stats.learned, 0u);
    EXPECT_GT(stats.memories_mb, 0.0);
    EXPECT_DOUBLE_EQ(stats.memory_usage_mb, stats.index_mb + stats.memories_mb);
    EXPECT_EQ(stats.window_fill_ratio, 1.0);
    EXPECT_GT(stats.optimization_loss, 0.0);
    EXPECT_TRUE(std::isfinite(stats.optimization_loss));
    EXPECT_GT(stats.optimization_loss_without, 0.0);
    EXPECT_EQ(stats.skipped, 0u);
    EXPECT_EQ(stats.feature_type, ATLAS_FEATURE_POLYNOMIAL);

    // What is only a switch keeps what was learned.
    ASSERT_EQ(CALL(llama_set_atlas_blend_ratio)(context.llama(), 0.25f), ATLAS_OK);
    EXPECT_EQ(context.stats().blend_ratio, 0.25);
    EXPECT_LE(context.stats().blend_ratio_in_use, 0.25);
    EXPECT_EQ(context.stats().memories, 2u);
    EXPECT_EQ(context.stats().optimization_loss, stats.optimization_loss);

    ASSERT_EQ(CALL(llama_reset_atlas_memory)(context.llama()), ATLAS_OK);
    EXPECT_EQ(context.stats().window_fill_ratio, 0.0);
    EXPECT_EQ(context.stats().observations, stats.observations);  // since the context was made

    ASSERT_EQ(CALL(llama_set_atlas_feature_type)(context.llama(), ATLAS_FEATURE_FOURIER), ATLAS_OK);
    EXPECT_EQ(context.stats().feature_type, ATLAS_FEATURE_FOURIER);
    EXPECT_EQ(context.stats().memories, 0u);
    for (uint32_t step = 0; step < 10; ++step) context.decode(step);
    EXPECT_EQ(context.stats().memories, 2u);
}

TEST_F(CApi, BadValuesAreNamedAndChangeNothing) {
    FakeContext context;
    const double before = context.stats().blend_ratio;
    const auto ratio = CALL(llama_set_atlas_blend_ratio);
    expect_error(ATLAS_INVALID_ARGUMENT, ratio(context.llama(), std::nanf("")), "nan");
    expect_error(ATLAS_INVALID_ARGUMENT, ratio(context.llama(), -0.5f), "-0.5");
    expect_error(ATLAS_INVALID_ARGUMENT, ratio(context.llama(), 1.5f), "1.5");
    expect_error(ATLAS_INVALID_ARGUMENT, ratio(context.llama(), std::numeric_limits<float>::infinity()), "inf");
    EXPECT_EQ(context.stats().blend_ratio, before);
    for (const int type : {-1, 5, 99}) {
        expect_error(ATLAS_INVALID_ARGUMENT,
                     CALL(llama_set_atlas_feature_type)(context.llama(), static_cast<atlas_feature_type>(type)),
                     "llama_set_atlas_feature_type: type " + std::to_string(type) + ": allowed is 0 to 4");
    }
    EXPECT_EQ(context.stats().feature_type, ATLAS_FEATURE_POLYNOMIAL);

    expect_error(ATLAS_INVALID_ARGUMENT, CALL(llama_set_atlas_enabled)(nullptr, true),
                 "llama_set_atlas_enabled: ctx is NULL");
    expect_error(ATLAS_INVALID_ARGUMENT, ratio(nullptr, 0.5f), "ctx is NULL");
    expect_error(ATLAS_INVALID_ARGUMENT, CALL(llama_set_atlas_feature_type)(nullptr, ATLAS_FEATURE_RBF), "ctx is NULL");
    expect_error(ATLAS_INVALID_ARGUMENT, CALL(llama_reset_atlas_memory)(nullptr), "ctx is NULL");
    expect_error(ATLAS_INVALID_ARGUMENT, CALL(llama_get_atlas_stats)(nullptr, nullptr), "ctx is NULL");
    expect_error(ATLAS_INVALID_ARGUMENT, CALL(llama_get_atlas_stats)(context.llama(), nullptr), "stats is NULL");
}

/** Keys that a call reads on average, of the last call alone. */
double keys_read(FakeContext& context, uint32_t seed) {
    const llama_atlas_stats before = context.stats();
    context.decode(seed);
    const llama_atlas_stats after = context.stats();
    if (after.estimated_calls == before.estimated_calls) return after.visible_keys;
    return after.exact_keys * static_cast<double>(after.estimated_calls) -
           before.exact_keys * static_cast<double>(before.estimated_calls);
}

TEST_F(CApi, OptionsCountFromTheNextDecodeOn) {
    FakeContext context, other;
    const auto set = [&](const char* name, const char* value) {
        EXPECT_EQ(CALL(llama_set_atlas_option)(context.llama(), name, value), ATLAS_OK) << error();
    };
    set("ATLAS_MODE", "sparse");
    EXPECT_TRUE(context.stats().enabled);
    EXPECT_FALSE(context.stats().memory_enabled);
    EXPECT_FALSE(other.stats().enabled);
    const double narrow = keys_read(context, 7);
    EXPECT_LT(narrow, 400.0);
    // The mask is the one of the call before, whose plan must not be taken for this window's.
    set("ATLAS_WINDOW", "512");
    const double wide = keys_read(context, 7);
    EXPECT_GE(wide, narrow + 256.0);
    set("ATLAS_WINDOW", "");
    EXPECT_EQ(keys_read(context, 7), narrow);
    set("ATLAS_BUDGET", "512");
    set("ATLAS_BUDGET_FLOOR", "512");
    EXPECT_GE(keys_read(context, 7), narrow + 256.0);
    set("ATLAS_THRESHOLD", "1024");
    const uint64_t estimated = context.stats().estimated_calls;
    context.decode(7);
    EXPECT_EQ(context.stats().estimated_calls, estimated);
    set("ATLAS_MODE", "exact");
    EXPECT_FALSE(context.stats().enabled);
}

TEST_F(CApi, MemoriesOfAnotherKindStartAnewAndSwitchesKeepThem) {
    FakeContext context;
    ASSERT_EQ(CALL(llama_set_atlas_enabled)(context.llama(), true), ATLAS_OK);
    for (uint32_t step = 0; step < 20; ++step) context.decode(step);
    ASSERT_EQ(context.stats().memories, 2u);
    const auto set = CALL(llama_set_atlas_option);
    ASSERT_EQ(set(context.llama(), "ATLAS_MEMORY_PROBE", "64"), ATLAS_OK) << error();
    ASSERT_EQ(set(context.llama(), "ATLAS_WINDOW", "128"), ATLAS_OK) << error();
    EXPECT_EQ(context.stats().memories, 2u);
    ASSERT_EQ(set(context.llama(), "ATLAS_MEMORY_KIND", "linear"), ATLAS_OK) << error();
    EXPECT_EQ(context.stats().memories, 0u);
    context.decode(1);
    EXPECT_EQ(context.stats().memories, 2u);
    // The two ways to set one thing see each other.
    ASSERT_EQ(CALL(llama_set_atlas_blend_ratio)(context.llama(), 0.1f), ATLAS_OK);
    ASSERT_EQ(set(context.llama(), "ATLAS_WINDOW", "64"), ATLAS_OK) << error();
    EXPECT_EQ(context.stats().blend_ratio, 0.1);
    ASSERT_EQ(set(context.llama(), "ATLAS_BLEND_RATIO", "0.75"), ATLAS_OK) << error();
    EXPECT_EQ(context.stats().blend_ratio, 0.75);
}

TEST_F(CApi, OptionsThatAreNoneOrNotAContextsAreNamed) {
    FakeContext context;
    const auto set = CALL(llama_set_atlas_option);
    expect_error(ATLAS_INVALID_ARGUMENT, set(context.llama(), "ATLAS_BUGDET", "1"),
                 "llama_set_atlas_option: ATLAS_BUGDET is no option of Atlas; did you mean ATLAS_BUDGET?");
    expect_error(ATLAS_INVALID_ARGUMENT, set(context.llama(), "ATLAS_BUDGET_SHARE", "1.5"),
                 "ATLAS_BUDGET_SHARE=1.5: allowed is a number from 0 to 1");
    expect_error(ATLAS_INVALID_ARGUMENT, set(context.llama(), "ATLAS_REST", "guess"),
                 "ATLAS_REST=guess: allowed is one of estimate, drop");
    expect_error(ATLAS_UNSUPPORTED, set(context.llama(), "ATLAS_KERNEL", "avx2"),
                 "ATLAS_KERNEL counts only when the library is loaded: the kernels are chosen once");
    expect_error(ATLAS_INVALID_ARGUMENT, set(context.llama(), nullptr, "1"), "name is NULL");
    expect_error(ATLAS_INVALID_ARGUMENT, set(context.llama(), "ATLAS_WINDOW", nullptr), "value is NULL");
    expect_error(ATLAS_INVALID_ARGUMENT, set(nullptr, "ATLAS_WINDOW", "64"), "ctx is NULL");
    // Features that the heads of this context would have too many of.
    context.decode(1);
    expect_error(ATLAS_INVALID_ARGUMENT, set(context.llama(), "ATLAS_FEATURE_DEGREE", "3"), "features");
    EXPECT_EQ(set(context.llama(), "ATLAS_FEATURE_DEGREE", "1"), ATLAS_OK);
}

TEST_F(CApi, StatsOfOlderAndNewerCallers) {
    FakeContext context;
    context.decode(1);
    struct {
        llama_atlas_stats stats;
        char more[64];
    } newer;
    std::memset(&newer, 0x5A, sizeof newer);
    newer.stats.size = sizeof newer;
    ASSERT_EQ(CALL(llama_get_atlas_stats)(context.llama(), &newer.stats), ATLAS_OK);
    EXPECT_EQ(newer.stats.size, sizeof(llama_atlas_stats));
    EXPECT_EQ(newer.stats.attention_calls, 1u);
    for (const char byte : newer.more) EXPECT_EQ(byte, 0x5A);

    // A caller from before the fields behind cache_hit_ratio.
    llama_atlas_stats older;
    std::memset(&older, 0x5A, sizeof older);
    older.size = offsetof(llama_atlas_stats, enabled);
    ASSERT_EQ(CALL(llama_get_atlas_stats)(context.llama(), &older), ATLAS_OK);
    EXPECT_EQ(older.size, offsetof(llama_atlas_stats, enabled));
    EXPECT_EQ(older.memory_usage_mb, 0.0);
    EXPECT_EQ(older.attention_calls, 0x5A5A5A5A5A5A5A5Aull);

    for (const size_t size : {size_t{0}, size_t{8}, size_t{40}}) {
        older.size = size;
        expect_error(ATLAS_INVALID_ARGUMENT, CALL(llama_get_atlas_stats)(context.llama(), &older),
                     "stats->size " + std::to_string(size) + ":");
    }
}

TEST_F(CApi, ContextsWithoutAtlasAreAnErrorNotACrash) {
    const std::unique_ptr<ggml_backend, Deleter> cpu(ggml_backend_dev_init(cpu_device(), nullptr));
    llama_context context{{cpu.get()}};
    llama_context empty{};
    llama_atlas_stats stats{};
    stats.size = sizeof stats;
    for (llama_context* ctx : {&context, &empty}) {
        expect_error(ATLAS_NOT_ACTIVE, CALL(llama_set_atlas_enabled)(ctx, true), "does not run on Atlas (0 contexts");
        expect_error(ATLAS_NOT_ACTIVE, CALL(llama_set_atlas_blend_ratio)(ctx, 0.5f), "does not run on Atlas");
        expect_error(ATLAS_NOT_ACTIVE, CALL(llama_get_atlas_stats)(ctx, &stats), "does not run on Atlas");
    }
    FakeContext ours;
    expect_error(ATLAS_NOT_ACTIVE, CALL(llama_reset_atlas_memory)(&context), "does not run on Atlas (1 contexts");
}

TEST_F(CApi, SettingsReachOnlyTheirContext) {
    FakeContext one, two;
    ASSERT_EQ(CALL(llama_set_atlas_enabled)(one.llama(), true), ATLAS_OK);
    ASSERT_EQ(CALL(llama_set_atlas_blend_ratio)(two.llama(), 0.125f), ATLAS_OK);
    EXPECT_TRUE(one.stats().enabled);
    EXPECT_FALSE(two.stats().enabled);
    EXPECT_EQ(one.stats().blend_ratio, 1.0);
    EXPECT_EQ(two.stats().blend_ratio, 0.125);
    one.decode(1);
    EXPECT_EQ(one.stats().attention_calls, 1u);
    EXPECT_EQ(two.stats().attention_calls, 0u);
}

TEST_F(CApi, ModelsWithoutSideCarHaveNone) {
    const auto has = CALL(llama_model_has_atlas);
    EXPECT_FALSE(has(nullptr));
    EXPECT_EQ(error(), "llama_model_has_atlas: model is NULL");
    int model = 0;
    EXPECT_FALSE(has(reinterpret_cast<const llama_model*>(&model)));
}

TEST_F(CApi, LastErrorIsTheThreads) {
    CALL(llama_set_atlas_enabled)(nullptr, true);
    std::thread([] { EXPECT_EQ(error(), ""); }).join();
    EXPECT_NE(error(), "");
}

/** What a context does with its own settings, switched in between. */
std::vector<float> scenario(uint32_t number) {
    FakeContext context(number + 1);
    std::vector<float> all;
    const auto append = [&](const std::vector<float>& part) { all.insert(all.end(), part.begin(), part.end()); };
    EXPECT_EQ(CALL(llama_set_atlas_enabled)(context.llama(), number != 0), ATLAS_OK);
    EXPECT_EQ(CALL(llama_set_atlas_blend_ratio)(context.llama(), static_cast<float>(number) / 4.0f), ATLAS_OK);
    EXPECT_EQ(CALL(llama_set_atlas_feature_type)(context.llama(), static_cast<atlas_feature_type>(number)), ATLAS_OK);
    for (uint32_t step = 0; step < 24; ++step) {
        if (step % 8 == 5) {
            EXPECT_EQ(CALL(llama_set_atlas_enabled)(context.llama(), step % 3 == 0), ATLAS_OK);
        }
        append(context.decode(step));
        const llama_atlas_stats stats = context.stats();
        EXPECT_EQ(stats.attention_calls, step + 1u);
        EXPECT_EQ(stats.blend_ratio, number / 4.0);
    }
    return all;
}

TEST_F(CApi, FourContextsInParallelDoWhatTheyDoAlone) {
    std::vector<std::vector<float>> alone(4), together(4);
    for (uint32_t i = 0; i < 4; ++i) alone[i] = scenario(i);
    std::vector<std::thread> threads;
    for (uint32_t i = 0; i < 4; ++i) threads.emplace_back([&, i] { together[i] = scenario(i); });
    for (std::thread& thread : threads) thread.join();
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(alone[i], together[i]) << "context " << i;
}

[[noreturn]] void enable_in_accel_mode() {
    setenv("ATLAS_DEVICE", "accel", 1);
    bool right = load_plugin() != nullptr;
    ggml_backend_t backend = ggml_backend_dev_init(ggml_backend_dev_by_name("ATLAS"), nullptr);
    llama_context context{{backend}};
    right = right && CALL(llama_set_atlas_enabled)(&context, true) == ATLAS_UNSUPPORTED;
    right = right && std::strstr(CALL(atlas_last_error)(), "ATLAS_DEVICE=accel");
    right = right && CALL(llama_set_atlas_enabled)(&context, false) == ATLAS_OK;
    ggml_backend_free(backend);
    std::_Exit(right ? 0 : 1);
}

TEST(CApiInItsOwnProcess, AccelModeCannotEstimate) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_EXIT(enable_in_accel_mode(), ::testing::ExitedWithCode(0), "");
}

[[noreturn]] void follow_the_options() {
    setenv("ATLAS_MODE", "sparse", 1);
    setenv("ATLAS_MEMORY", "0", 1);
    bool right = load_plugin() != nullptr;
    FakeContext context;
    right = right && context.stats().enabled && !context.stats().memory_enabled;
    context.decode(1);
    right = right && context.stats().estimated_calls == 1 && context.stats().memories == 0;
    right = right && CALL(llama_set_atlas_enabled)(context.llama(), false) == ATLAS_OK;
    right = right && CALL(llama_set_atlas_enabled)(context.llama(), true) == ATLAS_OK;
    right = right && !context.stats().memory_enabled && !::testing::Test::HasFailure();
    std::_Exit(right ? 0 : 1);
}

TEST(CApiInItsOwnProcess, ContextsBeginAsTheOptionsSay) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_EXIT(follow_the_options(), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace atlas::host::test
