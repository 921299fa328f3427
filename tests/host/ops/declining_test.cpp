// Nodes as a later host may make them: what Atlas does not know about a node it declines, before any graph runs.

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>

#include "atlas_device.h"

namespace atlas::host::test {
namespace {

constexpr int64_t kHead = 64, kCells = 256;

ggml_tensor* attention(Bench& bench) {
    ggml_tensor* q = bench.tensor("q", GGML_TYPE_F32, {kHead, 3, 2});
    ggml_tensor* k = bench.tensor("cache_k_l0", GGML_TYPE_F16, {kHead, kCells, 2});
    ggml_tensor* v = bench.tensor("cache_v_l0", GGML_TYPE_F16, {kHead, kCells, 2});
    return ggml_flash_attn_ext(bench.context(), q, k, v, nullptr, 0.125f, 0.0f, 0.0f);
}

ggml_tensor* rows(Bench& bench) {
    return ggml_set_rows(bench.context(), bench.tensor("cache_k_l0", GGML_TYPE_F16, {kHead, kCells}),
                         bench.tensor("rows", GGML_TYPE_F32, {kHead, 3}), bench.tensor("where", GGML_TYPE_I64, {3}));
}

struct Change {
    const char* what;
    std::function<void(Bench&, ggml_tensor*)> make;
    bool taken;
};

const Change kAttentionChanges[] = {
    {"nothing", [](Bench&, ggml_tensor*) {}, true},
    {"sinks", [](Bench& bench, ggml_tensor* op) { op->src[4] = bench.tensor("sinks", GGML_TYPE_F32, {2}); }, true},
    {"f32 sums", [](Bench&, ggml_tensor* op) { op->op_params[3] = GGML_PREC_F32; }, true},
    {"a bound on visible keys", [](Bench&, ggml_tensor* op) { op->op_params[4] = 2048; }, true},
    {"a sixth operand", [](Bench& bench, ggml_tensor* op) { op->src[5] = bench.tensor("what", GGML_TYPE_F32, {2}); },
     false},
    {"a tenth operand", [](Bench& bench, ggml_tensor* op) { op->src[9] = bench.tensor("what", GGML_TYPE_F32, {2}); },
     false},
    {"a missing operand", [](Bench&, ggml_tensor* op) { op->src[2] = nullptr; }, false},
    {"an unknown precision", [](Bench&, ggml_tensor* op) { op->op_params[3] = 77; }, false},
    {"a negative bound", [](Bench&, ggml_tensor* op) { op->op_params[4] = -1; }, false},
    {"a sixth parameter", [](Bench&, ggml_tensor* op) { op->op_params[5] = 1; }, false},
    {"a last parameter", [](Bench&, ggml_tensor* op) { op->op_params[15] = 1; }, false},
};

const Change kRowChanges[] = {
    {"nothing", [](Bench&, ggml_tensor*) {}, true},
    {"a fourth operand", [](Bench& bench, ggml_tensor* op) { op->src[3] = bench.tensor("what", GGML_TYPE_F32, {2}); },
     false},
    {"a missing operand", [](Bench&, ggml_tensor* op) { op->src[1] = nullptr; }, false},
    {"a parameter", [](Bench&, ggml_tensor* op) { op->op_params[0] = 1; }, false},
};

using Declining = AtlasDevice;

TEST_F(Declining, WhatIsUnknownAboutANodeIsNotIgnored) {
    for (const Change& change : kAttentionChanges) {
        Bench bench(device_);
        ggml_tensor* op = attention(bench);
        change.make(bench, op);
        EXPECT_EQ(ggml_backend_dev_supports_op(device_, op), change.taken) << "attention with " << change.what;
    }
    for (const Change& change : kRowChanges) {
        Bench bench(device_);
        ggml_tensor* op = rows(bench);
        change.make(bench, op);
        EXPECT_EQ(ggml_backend_dev_supports_op(device_, op), change.taken) << "rows with " << change.what;
    }
}

TEST_F(Declining, OverOurOwnCachesTheHostsBackendComputesIt) {
    // Nobody else can write into them, and a host that finds no backend for such a node ends the process.
    const auto run = [](Bench& bench) {
        ggml_tensor* written = rows(bench);
        ggml_tensor* attended = attention(bench);
        written->op_params[0] = 1;
        attended->op_params[5] = 1;
        EXPECT_NE(bench.allocate(), nullptr);
        EXPECT_TRUE(ggml_backend_supports_op(bench.backend(), written));
        EXPECT_TRUE(ggml_backend_supports_op(bench.backend(), attended));
        uint32_t seed = 1;
        for (ggml_tensor* tensor :
             {written->src[2], written->src[0], attended->src[0], attended->src[1], attended->src[2]})
            Bench::set(tensor, noise(static_cast<size_t>(ggml_nelements(tensor)), seed++));
        const int64_t where[] = {9, 200, 77};
        ggml_backend_tensor_set(written->src[1], where, 0, sizeof where);
        EXPECT_EQ(bench.compute(written), GGML_STATUS_SUCCESS);
        EXPECT_EQ(bench.compute(attended), GGML_STATUS_SUCCESS);
        return std::pair(Bench::bytes(written->src[2]), Bench::bytes(attended));
    };
    Bench ours(device_);
    Bench theirs(cpu_device());
    EXPECT_TRUE(run(ours) == run(theirs));
}

[[noreturn]] void decline_twice(const char* log) {
    setenv("ATLAS_LOG_LEVEL", "info", 1);
    if (!std::freopen(log, "w", stderr) || load_plugin() == nullptr) std::_Exit(1);
    ggml_backend_dev_t device = ggml_backend_dev_by_name("ATLAS0");
    Bench bench(device);
    ggml_tensor* op = attention(bench);
    op->op_params[5] = 42;
    for (int i = 0; i < 3; ++i) {
        if (ggml_backend_dev_supports_op(device, op)) std::_Exit(2);
    }
    std::fflush(stderr);
    std::ifstream file(log);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    const std::string line = "FLASH_ATTN_EXT left to the host: parameter 5 is 42";
    const size_t first = text.find(line);
    std::_Exit(first != std::string::npos && text.find(line, first + 1) == std::string::npos ? 0 : 3);
}

TEST(DecliningProcess, SaysWhatItDeclinesOnceAndByName) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    const std::string log = testing::TempDir() + "atlas_declined.log";
    EXPECT_EXIT(decline_twice(log.c_str()), ::testing::ExitedWithCode(0), "");
    std::remove(log.c_str());
}

}  // namespace
}  // namespace atlas::host::test
