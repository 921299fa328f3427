#include <dlfcn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>

#include "host/abi/detect.h"
#include "plugin.h"

namespace atlas::host::test {
namespace {

using abi::choose_layout;
using abi::HostFacts;
using abi::Layout;

TEST(Abi, ChoosesTheLayoutByWhatTheHostExports) {
    Layout layout{};
    EXPECT_TRUE(choose_layout({"0.27.0", true, true}, &layout).is_ok());
    EXPECT_EQ(layout, Layout::kV3);
    EXPECT_TRUE(choose_layout({"0.21.1", true, false}, &layout).is_ok());
    EXPECT_EQ(layout, Layout::kV2);
}

TEST(Abi, RefusesOtherHostsNamingWhatItFound) {
    Layout layout{};
    for (const HostFacts& facts :
         {HostFacts{"0.8.4", true, true}, HostFacts{"0.20.9", true, true}, HostFacts{"1.0.0", true, true},
          HostFacts{"0.12.0", false, false}, HostFacts{"0.27.0", false, true}, HostFacts{"nonsense", true, true}}) {
        const Status status = choose_layout(facts, &layout);
        EXPECT_EQ(status.code(), StatusCode::kUnsupported);
        EXPECT_NE(status.message().find(facts.version), std::string::npos) << status.message();
    }
    EXPECT_EQ(choose_layout({nullptr, true, true}, &layout).code(), StatusCode::kUnsupported);
}

TEST(Abi, SaysOfALaterHostThatItIsUntested) {
    Layout layout{};
    const HostFacts later{"0.28.0", true, true};
    EXPECT_TRUE(choose_layout(later, &layout).is_ok()) << "its self-test decides";
    EXPECT_NE(abi::untested(later).find("0.28.0"), std::string::npos);
    for (const char* version : {"0.21.0", "0.25.3", "0.27.9"}) EXPECT_EQ(abi::untested({version, true, true}), "");
}

TEST(Refusal, LoadedTwiceIsOneDevice) {
    ggml_backend_reg_t first = load_plugin();
    ASSERT_NE(first, nullptr);
    const size_t devices = ggml_backend_dev_count();
    EXPECT_EQ(ggml_backend_load(ATLAS_PLUGIN), first);
    EXPECT_EQ(ggml_backend_dev_count(), devices);
    const std::filesystem::path copy = std::filesystem::path(testing::TempDir()) / "libggml-atlas-copy.so";
    std::filesystem::copy_file(ATLAS_PLUGIN, copy, std::filesystem::copy_options::overwrite_existing);
    EXPECT_EQ(ggml_backend_load(copy.c_str()), nullptr) << "another copy of the library";
    EXPECT_EQ(ggml_backend_dev_count(), devices);
    std::filesystem::remove(copy);
}

/** Every program pays for it when it loads the plug-in. Of many tries the shortest, which other programs do not lengthen. */
TEST(Refusal, LoadingTakesNoTimeThatCouldBeNoticed) {
    ASSERT_NE(load_plugin(), nullptr);
    void* library = dlopen(ATLAS_PLUGIN, RTLD_LAZY | RTLD_NOLOAD);
    ASSERT_NE(library, nullptr);
    const auto init = reinterpret_cast<ggml_backend_reg_t (*)()>(dlsym(library, "ggml_backend_init"));
    ASSERT_NE(init, nullptr);
    double shortest = 1e9;
    for (int i = 0; i < 50; ++i) {
        const auto start = std::chrono::steady_clock::now();
        ASSERT_NE(init(), nullptr);
        const std::chrono::duration<double, std::milli> passed = std::chrono::steady_clock::now() - start;
        shortest = std::min(shortest, passed.count());
    }
    dlclose(library);
    // Parsing options and the self-test: 0.1 ms, and 0.5 ms the first time. ThreadSanitizer is some 20 times as slow.
    EXPECT_LT(shortest, ATLAS_SLOW_BUILD ? 40.0 : 2.0);
}

TEST(Refusal, WhatHasNoKernelIsNotSupported) {
    ASSERT_NE(load_plugin(), nullptr);
    ggml_backend_dev_t device = ggml_backend_dev_by_name("ATLAS0");
    ASSERT_NE(device, nullptr);
    Bench bench(device);
    const auto attends = [&](int64_t d_k, int64_t d_v, ggml_type type, ggml_type v_type) {
        ggml_tensor* q = bench.tensor("q", GGML_TYPE_F32, {d_k, 1, 2});
        ggml_tensor* k = bench.tensor("cache_k_l0", type, {d_k, 64, 2});
        ggml_tensor* v = bench.tensor("cache_v_l0", v_type, {d_v, 64, 2});
        return ggml_backend_dev_supports_op(device,
                                            ggml_flash_attn_ext(bench.context(), q, k, v, nullptr, 0.1f, 0.0f, 0.0f));
    };
    EXPECT_TRUE(attends(64, 64, GGML_TYPE_F16, GGML_TYPE_F16));
    EXPECT_TRUE(attends(576, 512, GGML_TYPE_Q8_0, GGML_TYPE_F32));
    EXPECT_FALSE(attends(5120, 64, GGML_TYPE_F16, GGML_TYPE_F16)) << "key size without a kernel";
    EXPECT_FALSE(attends(64, 5120, GGML_TYPE_F16, GGML_TYPE_F16)) << "value size without a kernel";
    EXPECT_FALSE(attends(64, 64, GGML_TYPE_I32, GGML_TYPE_F16)) << "keys of a type that nothing decodes";
    EXPECT_FALSE(attends(64, 64, GGML_TYPE_F16, GGML_TYPE_I16)) << "values of a type that nothing decodes";
    const auto writes = [&](ggml_type type) {
        return ggml_backend_dev_supports_op(
            device,
            ggml_set_rows(bench.context(), bench.tensor("cache_k_l0", type, {256, 64}),
                          bench.tensor("rows", GGML_TYPE_F32, {256, 1}), bench.tensor("where", GGML_TYPE_I64, {1})));
    };
    EXPECT_TRUE(writes(GGML_TYPE_Q4_0));
    EXPECT_FALSE(writes(GGML_TYPE_IQ2_XXS)) << "a type that needs an importance matrix to be written";
}

/** Environment and options belong to a process, so each case runs in one of its own. */
class OwnProcess : public ::testing::Test {
protected:
    void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

[[noreturn]] void load_with(const char* variable, const char* value) {
    setenv(variable, value, 1);
    const bool declined = load_plugin() == nullptr;
    // The host must still work without us.
    Bench bench(cpu_device());
    ggml_tensor* sum =
        ggml_add(bench.context(), bench.tensor("a", GGML_TYPE_F32, {4}), bench.tensor("b", GGML_TYPE_F32, {4}));
    const bool works = bench.allocate() != nullptr && bench.compute(sum) == GGML_STATUS_SUCCESS;
    std::_Exit(declined && works ? 0 : 1);
}

TEST_F(OwnProcess, MalformedOptionsAreNamedAndTheHostGoesOn) {
    EXPECT_EXIT(load_with("ATLAS_DEVICE", "banana"), ::testing::ExitedWithCode(0), "ATLAS_DEVICE=banana");
    EXPECT_EXIT(load_with("ATLAS_KV_RAM", "12Q"), ::testing::ExitedWithCode(0), "ATLAS_KV_RAM=12Q");
    EXPECT_EXIT(load_with("ATLAS_KERNEL", "neural"), ::testing::ExitedWithCode(0), "ATLAS_KERNEL=neural");
}

[[noreturn]] void overflow_budget() {
    setenv("ATLAS_KV_RAM", "16K", 1);
    bool right = load_plugin() != nullptr;
    Bench bench(ggml_backend_dev_by_name("ATLAS0"));
    // Pages of 64 rows of 128 bytes: the third does not fit.
    ggml_tensor* cache = bench.tensor("cache_k_l0", GGML_TYPE_F16, {64, 256});
    ggml_tensor* rows = bench.tensor("rows", GGML_TYPE_F32, {64, 3});
    ggml_tensor* where = bench.tensor("where", GGML_TYPE_I64, {3});
    ggml_tensor* written = ggml_set_rows(bench.context(), cache, rows, where);
    right = right && bench.allocate() != nullptr;
    const int64_t cells[3] = {0, 64, 128};
    ggml_backend_tensor_set(where, cells, 0, sizeof cells);
    Bench::set(rows, noise(64 * 3, 1));
    right = right && bench.compute(written) == GGML_STATUS_ALLOC_FAILED;
    // Within the budget the same cache goes on working.
    const int64_t fitting[3] = {1, 2, 65};
    ggml_backend_tensor_set(where, fitting, 0, sizeof fitting);
    right = right && bench.compute(written) == GGML_STATUS_SUCCESS;
    std::_Exit(right ? 0 : 1);
}

TEST_F(OwnProcess, ABudgetTooSmallFailsTheGraphAndNamesIt) {
    EXPECT_EXIT(overflow_budget(), ::testing::ExitedWithCode(0), "ATLAS_KV_RAM=16384");
}

[[noreturn]] void accel_device() {
    setenv("ATLAS_DEVICE", "accel", 1);
    const bool right =
        load_plugin() != nullptr && ggml_backend_dev_by_name("ATLAS0") == nullptr &&
        ggml_backend_dev_by_name("ATLAS") != nullptr &&
        ggml_backend_dev_buffer_type(ggml_backend_dev_by_name("ATLAS")) == ggml_backend_cpu_buffer_type();
    std::_Exit(right ? 0 : 1);
}

TEST_F(OwnProcess, AccelModeSharesTheHostsBuffers) { EXPECT_EXIT(accel_device(), ::testing::ExitedWithCode(0), ""); }

}  // namespace
}  // namespace atlas::host::test
