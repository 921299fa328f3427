#include "runtime/module_set.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "plain_call.h"
#include "runtime/runtime.h"
#include "runtime/session.h"

namespace atlas::runtime {
namespace {

Options options_of(std::initializer_list<std::pair<const char*, const char*>> given) {
    Options asked;
    for (const auto& [name, value] : given) EXPECT_TRUE(set_option(asked, name, value).is_ok()) << name;
    Options settled;
    EXPECT_TRUE(settle_options(asked, &settled).is_ok());
    return settled;
}

ModuleSetOptions level(double level) {
    ModuleSetOptions options;
    options.level = level;
    return options;
}

/** Calls of weights that took so many seconds each, and the host's. */
Work weights(uint64_t calls, double own, double host) {
    Work work;
    work.products = calls;
    for (uint64_t i = 0; i < calls; ++i) work.measured[index_of(Module::kWeights)].add(own, host, 0.0, i % 2 == 0);
    return work;
}

TEST(ModuleSetTest, WhatTheProcessCannotHaveIsNotLoadedAndSaysWhy) {
    Runtime accel(options_of({{"ATLAS_DEVICE", "accel"}}));
    ModuleSet set(accel, {}, level(2));
    EXPECT_EQ(set.loaded(), 1u);
    EXPECT_EQ(set.load(Module::kSparseAttention).message(),
              "sparse-attention: with ATLAS_DEVICE=accel the KV cache is the CPU's, and every key is read");
    EXPECT_TRUE(set.orders().options.empty());
    Runtime host(options_of({{"ATLAS_WEIGHTS", "host"}}));
    EXPECT_EQ(ModuleSet(host, {}, level(1)).load(Module::kWeights).code(), StatusCode::kUnsupported);
    Runtime plain{Options{}};
    ModelProfile biased;
    biased.alibi = true;
    ModuleSet without_memory(plain, biased, level(2));
    EXPECT_FALSE(without_memory.is_loaded(Module::kMemory));
    EXPECT_NE(without_memory.reason_of(Module::kMemory).find("biased by distance"), std::string::npos);
}

TEST(ModuleSetTest, NeedsAndLimits) {
    Runtime runtime{Options{}};
    ModuleSetOptions options = level(2);
    options.most = 3;
    ModuleSet set(runtime, {}, options);
    EXPECT_EQ(set.loaded(), 3u);
    EXPECT_EQ(set.load(Module::kMemory).code(), StatusCode::kOutOfMemory);
    EXPECT_NE(set.reason_of(Module::kMemory).find("3 modules are loaded, which is max_modules"), std::string::npos);
    // What needs another goes with it.
    set.unload(Module::kWeights);
    EXPECT_TRUE(set.load(Module::kMemory).is_ok());
    set.unload(Module::kExactAttention);
    EXPECT_EQ(set.loaded(), 0u);
    EXPECT_EQ(set.load(Module::kSparseAttention).message(),
              "sparse-attention needs exact-attention, which is not loaded");
    ModuleSetOptions none = level(2);
    none.enabled = false;
    const ModuleSet empty(runtime, {}, none);
    EXPECT_EQ(empty.loaded(), 0u);
    EXPECT_FALSE(empty.orders().own_attention);
    EXPECT_FALSE(empty.orders().own_weights);
}

TEST(ModuleSetTest, OrdersKeepWhatTheEnvironmentSets) {
    Runtime runtime(options_of({{"ATLAS_BUDGET", "300"}}));
    ModuleSetOptions options = level(2);
    options.pool_bytes = 100 << 20;
    const ModuleSet set(runtime, {}, options);
    const Orders orders = set.orders();
    const auto value = [&](const std::string& name) {
        for (const auto& [key, text] : orders.options) {
            if (key == name) return text;
        }
        return std::string("none");
    };
    EXPECT_EQ(value("ATLAS_MODE"), "sparse");
    EXPECT_EQ(value("ATLAS_MEMORY"), "1");
    EXPECT_EQ(value("ATLAS_BUDGET"), "none");
    EXPECT_EQ(value("ATLAS_THRESHOLD"), "2048");
    EXPECT_EQ(value("ATLAS_MEMORY_BUDGET"), std::to_string(25 << 20));
}

TEST(ModuleSetTest, ActivationSparsityNeedsAShareThatGains) {
    const auto ordered = [](const ModuleSet& set) {
        for (const auto& [key, text] : set.orders().options) {
            if (key == "ATLAS_SPARSITY") return text;
        }
        return std::string("none");
    };
    Runtime runtime{Options{}};
    ModuleSetOptions options = level(2);
    ModuleSet little(runtime, {}, options);
    EXPECT_FALSE(little.is_loaded(Module::kActivationSparsity));
    EXPECT_EQ(little.reason_of(Module::kActivationSparsity),
              "a sparsity_threshold of 0.1 gains nothing: a level loads it from 0.5 on");
    EXPECT_EQ(ordered(little), "0");
    EXPECT_TRUE(little.load(Module::kActivationSparsity).is_ok()) << "by name";
    EXPECT_EQ(std::stod(ordered(little)), 0.1);
    options.sparsity = 0.7;
    ModuleSet set(runtime, {}, options);
    EXPECT_EQ(std::stod(ordered(set)), 0.7);
    set.unload(Module::kWeights);
    EXPECT_FALSE(set.is_loaded(Module::kActivationSparsity));
    EXPECT_EQ(ordered(set), "0");
    EXPECT_EQ(set.load(Module::kActivationSparsity).message(),
              "activation-sparsity needs weights, which is not loaded");
    options.level = 1.5;
    EXPECT_FALSE(ModuleSet(runtime, {}, options).is_loaded(Module::kActivationSparsity));
    // The user's word.
    Runtime given(options_of({{"ATLAS_SPARSITY", "0.3"}}));
    options.level = 2;
    EXPECT_EQ(ordered(ModuleSet(given, {}, options)), "none");
    Runtime host(options_of({{"ATLAS_WEIGHTS", "host"}}));
    EXPECT_NE(ModuleSet(host, {}, options).absence_of(Module::kActivationSparsity).find("ATLAS_WEIGHTS=host"),
              std::string::npos);
}

TEST(ModuleSetTest, ASessionFollowsUntilItIsToldOtherwise) {
    const auto runtime = std::make_shared<Runtime>(options_of({{"ATLAS_WINDOW", "1024"}}));
    const auto set = std::make_shared<ModuleSet>(*runtime, ModelProfile{}, level(1));
    Session session(runtime);
    ASSERT_TRUE(session.set_option("ATLAS_BUDGET", "777").is_ok());
    EXPECT_FALSE(session.enabled());
    session.follow(set);
    EXPECT_TRUE(session.enabled());
    EXPECT_TRUE(session.is_observed());
    EXPECT_EQ(session.settings().budget, 2048);
    EXPECT_EQ(session.settings().window, 1024);
    EXPECT_FALSE(session.memory_options().enabled);
    EXPECT_EQ(set->activity().held().contexts, 1);
    // A change counts from the next graph on.
    set->unload(Module::kSparseAttention);
    set->unload(Module::kWeights);
    EXPECT_TRUE(session.enabled());
    session.begin_graph();
    EXPECT_FALSE(session.enabled());
    EXPECT_FALSE(session.own_weights());
    EXPECT_TRUE(session.own_attention());
    Call().attend(session);
    session.end_graph({});
    EXPECT_EQ(set->activity().work().attention_calls, 1u);
    EXPECT_EQ(set->activity().work().graphs, 1u);
    EXPECT_GT(set->activity().work().attention_seconds, 0.0);
    set->end();
    session.begin_graph();
    EXPECT_EQ(session.modules(), nullptr);
    EXPECT_TRUE(session.own_weights());
    EXPECT_FALSE(session.enabled());
    EXPECT_EQ(set->activity().held().contexts, 0);
}

TEST(ModuleSetTest, SpeedupWeighsSamplesByTheirCalls) {
    Work work = weights(100, 1.0, 2.0);
    EXPECT_NEAR(work.speedup(), 2.0, 1e-5);
    // One sample of attention, which stands for 100 calls of 3 s that would take 3 s too.
    work.attention_calls = 100;
    work.measured[index_of(Module::kExactAttention)].add(3.0, 3.0, 0.0, true);
    EXPECT_NEAR(work.speedup(), (200.0 + 300.0) / (100.0 + 300.0), 1e-5);
    EXPECT_DOUBLE_EQ(Work().speedup(), 1.0);
}

TEST(ModuleSetTest, AGainIsWhatPairsHaveInTheMiddle) {
    Measured measured;
    EXPECT_DOUBLE_EQ(measured.gain(), 1.0);
    // Of 1.3, a fifth longer for whoever is second to find warm caches; of seven pairs one is held up, on either side.
    for (int i = 0; i < 700; ++i) {
        const bool host_first = i % 2 == 0;
        const double own = 1e-4 * (host_first ? 1.0 : 1.2) * (i % 7 == 0 ? 40.0 : 1.0);
        const double host = 1.3e-4 * (host_first ? 1.2 : 1.0) * (i % 7 == 1 ? 25.0 : 1.0);
        measured.add(own, host, 0.0, host_first);
    }
    EXPECT_NEAR(measured.gain(), 1.3, 0.02);
    // What is long counts as long as it is: one of a second among 700 of 0.1 ms.
    measured.add(1.0, 2.0, 0.0, true);
    measured.add(1.0, 2.0, 0.0, false);
    EXPECT_NEAR(measured.gain(), 2.0, 1e-3);
    Measured sum;
    sum.add(measured);
    sum.add(Measured());
    EXPECT_EQ(sum.samples, 702u);
    EXPECT_DOUBLE_EQ(sum.gain(), measured.gain());
}

TEST(ModuleSetTest, ASlowModuleIsUnloadedIfThatWasAskedFor) {
    Runtime runtime{Options{}};
    ModuleSetOptions options = level(1);
    ModuleSet kept(runtime, {}, options);
    kept.add(weights(100, 2.0, 1.0));
    EXPECT_TRUE(kept.is_loaded(Module::kWeights));
    options.auto_unload = true;
    ModuleSet set(runtime, {}, options);
    set.add(weights(100, 1.0, 1.5));
    set.add(weights(10, 2.0, 1.0));
    EXPECT_TRUE(set.is_loaded(Module::kWeights)) << "all in all it is faster";
    set.activity().reset();
    set.add(weights(3, 2.0, 1.0));
    EXPECT_TRUE(set.is_loaded(Module::kWeights)) << "three samples are noise";
    set.add(weights(20, 2.0, 1.0));
    EXPECT_FALSE(set.is_loaded(Module::kWeights));
    EXPECT_EQ(set.reason_of(Module::kWeights),
              "unloaded by itself: 0.50 times as fast as the host's operation, over 23 samples");
    // By name it stays.
    EXPECT_TRUE(set.load(Module::kWeights).is_ok());
    set.add(weights(20, 2.0, 1.0));
    EXPECT_TRUE(set.is_loaded(Module::kWeights));
}

TEST(PoolsTest, AddUpAndGoBack) {
    kv::Budget budget;
    const std::unique_ptr<kv::Pager> no_pager;
    Pools pools(budget, no_pager);
    int one = 0, two = 0;
    ASSERT_TRUE(pools.set(&one, 100).is_ok());
    ASSERT_TRUE(pools.set(&two, 50).is_ok());
    EXPECT_EQ(budget.limit(), 150u);
    ASSERT_TRUE(budget.reserve(120));
    const Status status = pools.set(&two, 10);
    EXPECT_EQ(status.code(), StatusCode::kOutOfMemory);
    EXPECT_EQ(
        status.message(),
        "120 bytes are in use, of KV caches, indexes and memories, and nothing can leave memory without ATLAS_KV_DISK");
    EXPECT_EQ(budget.limit(), 150u);
    ASSERT_TRUE(pools.set(&two, 20).is_ok());
    EXPECT_EQ(budget.limit(), 120u);
    ASSERT_TRUE(pools.set(&two, 0).is_ok());
    EXPECT_EQ(budget.limit(), 0u) << "one of them is without a limit";
    pools.remove(&two);
    EXPECT_EQ(budget.limit(), 100u) << "nothing is taken away, but nothing more is given";
    pools.remove(&one);
    EXPECT_EQ(budget.limit(), 0u);
    kv::Budget limited(70);
    Pools within(limited, no_pager);
    ASSERT_TRUE(within.set(&one, 100).is_ok());
    EXPECT_EQ(limited.limit(), 70u);
    ASSERT_TRUE(within.set(&one, 60).is_ok());
    EXPECT_EQ(limited.limit(), 60u);
    within.remove(&one);
    EXPECT_EQ(limited.limit(), 70u);
}

}  // namespace
}  // namespace atlas::runtime
