#include "base/options.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>

namespace atlas {
namespace {

Status parse(const std::map<std::string, std::string>& environment, Options* out) {
    return parse_options(
        [&](const char* name) -> std::optional<std::string> {
            const auto found = environment.find(name);
            return found == environment.end() ? std::nullopt : std::optional<std::string>(found->second);
        },
        out);
}

struct TableRow {
    const char* name;
    const char* initial;
    const char* group;
    const char* load_only;
};

#define CONTEXT nullptr
#define LOAD(why) why
#define ATLAS_OPTION(group, field, name, type, initial, audience, when, help) {name, #initial, #group, when},
constexpr TableRow kTable[] = {
#include "base/options.def"
};

TEST(OptionsTest, EveryDefaultIsWhatItsRowSays) {
    for (const TableRow& row : kTable) {
        Options options;
        std::string before;
        std::string after;
        ASSERT_TRUE(get_option(options, row.name, &before).is_ok());
        ASSERT_TRUE(set_option(options, row.name, row.initial).is_ok()) << row.name << "=" << row.initial;
        ASSERT_TRUE(get_option(options, row.name, &after).is_ok());
        EXPECT_EQ(before, row.initial) << row.name;
        EXPECT_EQ(after, row.initial) << row.name;
    }
}

TEST(OptionsTest, SettersAreThoseOfTheEnvironment) {
    Options options;
    ASSERT_TRUE(set_option(options, "ATLAS_MODE", "sparse").is_ok());
    ASSERT_TRUE(set_option(options, "ATLAS_KV_RAM", "1536M").is_ok());
    ASSERT_TRUE(set_option(options, "ATLAS_BUDGET_SHARE", "0.05").is_ok());
    EXPECT_EQ(options.sparse.mode, AttentionMode::kSparse);
    EXPECT_EQ(options.kv_ram_bytes, uint64_t{1536} << 20);
    std::string text;
    ASSERT_TRUE(get_option(options, "ATLAS_BUDGET_SHARE", &text).is_ok());
    EXPECT_EQ(text, "0.05");
    // An error leaves the rest and what was there.
    EXPECT_EQ(set_option(options, "ATLAS_BUDGET_SHARE", "2").message(),
              "ATLAS_BUDGET_SHARE=2: allowed is a number from 0 to 1");
    EXPECT_EQ(options.sparse.share, 0.05);
    ASSERT_TRUE(set_option(options, "ATLAS_BUDGET_SHARE", "").is_ok()) << "taken back";
    EXPECT_EQ(options.sparse.share, SparseOptions{}.share);
    EXPECT_EQ(set_option(options, "ATLAS_BUGDET", "1").message(),
              "ATLAS_BUGDET is no option of Atlas; did you mean ATLAS_BUDGET?");
    EXPECT_EQ(get_option(options, "ATLAS_WARP_DRIVE", &text).message(), "ATLAS_WARP_DRIVE is no option of Atlas");
}

TEST(OptionsTest, WhatFollowsIsNotTakenForAsked) {
    Options asked;
    ASSERT_TRUE(set_option(asked, "ATLAS_BUDGET_FLOOR", "5000").is_ok());
    ASSERT_TRUE(set_option(asked, "ATLAS_MEMORY_MODE", "blend").is_ok());
    Options settled;
    ASSERT_TRUE(settle_options(asked, &settled).is_ok());
    EXPECT_EQ(settled.sparse.budget, 5000);
    EXPECT_EQ(settled.memory.kind, FarMemoryKind::kDeep);
    ASSERT_TRUE(set_option(asked, "ATLAS_BUDGET_FLOOR", "100").is_ok());
    ASSERT_TRUE(set_option(asked, "ATLAS_MEMORY_MODE", "").is_ok());
    ASSERT_TRUE(settle_options(asked, &settled).is_ok());
    EXPECT_EQ(settled.sparse.budget, SparseOptions{}.budget);
    EXPECT_EQ(settled.memory.kind, FarMemoryKind::kLeastSquares);
}

TEST(OptionsTest, WhatBelongsToTheProcessIsNoContextsAndTheReasonIsSaid) {
    for (const TableRow& row : kTable) {
        const Status status = check_context_option(row.name);
        const bool of_context = row.group != std::string("process") || row.name == std::string("ATLAS_THREADS") ||
                                row.name == std::string("ATLAS_SPARSITY");
        EXPECT_EQ(status.is_ok(), of_context) << row.name;
        if (of_context) continue;
        EXPECT_EQ(status.code(), StatusCode::kUnsupported);
        EXPECT_EQ(status.message(),
                  std::string(row.name) + " counts only when the library is loaded: " + row.load_only);
    }
    EXPECT_EQ(check_context_option("ATLAS_WIDNOW").message(),
              "ATLAS_WIDNOW is no option of Atlas; did you mean ATLAS_WINDOW?");
}

TEST(OptionsTest, WhatWasAskedIsFoundAgainInWhatFollowed) {
    Options settled;
    ASSERT_TRUE(parse({{"ATLAS_BUDGET_FLOOR", "5000"}, {"ATLAS_SIDE_CAR", "m.atlas.gguf"}}, &settled).is_ok());
    Options asked = asked_of(settled);
    EXPECT_EQ(asked.sparse.floor, 5000);
    EXPECT_EQ(asked.sparse.budget, SparseOptions{}.budget);
    EXPECT_FALSE(asked.memory.enabled);
    EXPECT_TRUE(is_given(asked, "ATLAS_SIDE_CAR"));
    take_option(asked, Options{}, "ATLAS_BUDGET_FLOOR");
    EXPECT_EQ(asked.sparse.floor, SparseOptions{}.floor);
    EXPECT_FALSE(is_given(asked, "ATLAS_BUDGET_FLOOR"));
    ASSERT_TRUE(set_option(asked, "ATLAS_TILE", "3").is_ok());
    Options taken;
    take_option(taken, asked, "ATLAS_TILE");
    EXPECT_EQ(taken.sparse.tile, 3);
    EXPECT_TRUE(is_given(taken, "ATLAS_TILE"));
}

TEST(OptionsTest, StatisticsInTheLogAreSeen) {
    Options options;
    ASSERT_TRUE(parse({{"ATLAS_STATS", "1"}}, &options).is_ok());
    EXPECT_EQ(options.log_level, LogLevel::kInfo);
    ASSERT_TRUE(parse({{"ATLAS_STATS", "1"}, {"ATLAS_LOG_LEVEL", "error"}}, &options).is_ok());
    EXPECT_EQ(options.log_level, LogLevel::kError);
    ASSERT_TRUE(parse({{"ATLAS_STATS", "0"}}, &options).is_ok());
    EXPECT_EQ(options.stats, "");
    ASSERT_TRUE(parse({{"ATLAS_STATS", "file.json"}}, &options).is_ok());
    EXPECT_EQ(options.log_level, LogLevel::kWarn);
}

TEST(OptionsTest, VariablesThatAreNoOptionsAreNamed) {
    setenv("ATLAS_TRESHOLD", "1", 1);
    setenv("ATLAS_LIBRARY", "l.so", 1);
    setenv("ATLAS_DEV_ROOT", "sid", 1);
    Options options;
    std::vector<std::string> unknown;
    EXPECT_TRUE(read_environment(&options, &unknown).is_ok());
    unsetenv("ATLAS_TRESHOLD");
    EXPECT_EQ(unknown,
              (std::vector<std::string>{"ATLAS_TRESHOLD is no option of Atlas; did you mean ATLAS_THRESHOLD?"}));
}

TEST(OptionsTest, EmptyEnvironmentGivesDefaults) {
    Options options;
    ASSERT_TRUE(parse({}, &options).is_ok());
    EXPECT_EQ(options.device, DeviceMode::kOwner);
    EXPECT_EQ(options.kernel, "auto");
    EXPECT_EQ(options.kv_ram_bytes, 0u);
}

TEST(OptionsTest, ReadsEveryKind) {
    Options options;
    ASSERT_TRUE(
        parse({{"ATLAS_DEVICE", "owner"}, {"ATLAS_KV_RAM", "512M"}, {"ATLAS_THREADS", "7"}, {"ATLAS_DEBUG", "1"}},
              &options)
            .is_ok());
    EXPECT_EQ(options.device, DeviceMode::kOwner);
    EXPECT_EQ(options.kv_ram_bytes, 512ull << 20);
    EXPECT_EQ(options.threads, 7);
    EXPECT_EQ(options.log_level, LogLevel::kDebug);
}

TEST(OptionsTest, ReadsTheMemory) {
    Options options;
    ASSERT_TRUE(parse({}, &options).is_ok());
    EXPECT_FALSE(options.memory.enabled);
    EXPECT_EQ(options.memory.budget_bytes, 300ull << 20);
    ASSERT_TRUE(parse({{"ATLAS_MEMORY", "1"},
                       {"ATLAS_MEMORY_KIND", "deep"},
                       {"ATLAS_BLEND_RATIO", "0.1"},
                       {"ATLAS_FEATURE_TYPE", "rbf"},
                       {"ATLAS_MEMORY_BUDGET", "20M"},
                       {"ATLAS_MUON_ITERATIONS", "0"}},
                      &options)
                    .is_ok());
    EXPECT_TRUE(options.memory.enabled);
    EXPECT_EQ(options.memory.kind, FarMemoryKind::kDeep);
    EXPECT_EQ(options.memory.blend_ratio, 0.1);
    EXPECT_EQ(options.memory.features, MemoryFeatures::kRbf);
    EXPECT_EQ(options.memory.budget_bytes, 20ull << 20);
    EXPECT_EQ(options.memory.muon_iterations, 0);
    EXPECT_FALSE(parse({{"ATLAS_BLEND_RATIO", "1.5"}}, &options).is_ok());
}

TEST(OptionsTest, ASideCarTurnsMemoryOn) {
    Options options;
    ASSERT_TRUE(parse({{"ATLAS_SIDE_CAR", "m.atlas.gguf"}, {"ATLAS_MODEL", "m.gguf"}}, &options).is_ok());
    EXPECT_TRUE(options.memory.enabled);
    EXPECT_EQ(options.side_car, "m.atlas.gguf");
    EXPECT_EQ(options.model, "m.gguf");
    ASSERT_TRUE(parse({{"ATLAS_SIDE_CAR", "m.atlas.gguf"}, {"ATLAS_MEMORY", "0"}}, &options).is_ok());
    EXPECT_FALSE(options.memory.enabled);
    ASSERT_TRUE(parse({{"ATLAS_SIDE_CAR", "none"}}, &options).is_ok());
    EXPECT_FALSE(options.memory.enabled);
    EXPECT_EQ(options.side_car, "");
}

TEST(OptionsTest, ReadsTheSparsePlanner) {
    Options options;
    ASSERT_TRUE(parse({{"ATLAS_MODE", "sparse"},
                       {"ATLAS_REST", "drop"},
                       {"ATLAS_BUDGET", "500"},
                       {"ATLAS_BUDGET_SHARE", "0.01"},
                       {"ATLAS_STATS", "x.json"}},
                      &options)
                    .is_ok());
    EXPECT_EQ(options.sparse.mode, AttentionMode::kSparse);
    EXPECT_EQ(options.sparse.rest, Rest::kDrop);
    EXPECT_EQ(options.sparse.budget, 500);
    EXPECT_DOUBLE_EQ(options.sparse.share, 0.01);
    EXPECT_EQ(options.stats, "x.json");
}

TEST(OptionsTest, ContradictionsNameBothValues) {
    using Environment = std::map<std::string, std::string>;
    const std::pair<Environment, const char*> cases[] = {
        {{{"ATLAS_BUDGET_FLOOR", "600"}, {"ATLAS_BUDGET", "500"}},
         "ATLAS_BUDGET_FLOOR=600: allowed is at most ATLAS_BUDGET=500"},
        {{{"ATLAS_DEVICE", "accel"}, {"ATLAS_MODE", "sparse"}},
         "ATLAS_MODE=sparse: allowed is exact with ATLAS_DEVICE=accel"},
        {{{"ATLAS_DEVICE", "accel"}, {"ATLAS_LEVEL", "1"}},
         "ATLAS_LEVEL=1: allowed is less than 1 with ATLAS_DEVICE=accel"},
        {{{"ATLAS_DEVICE", "accel"}, {"ATLAS_KV_RAM", "1G"}}, "ATLAS_KV_RAM=1G: allowed is 0 with ATLAS_DEVICE=accel"},
        {{{"ATLAS_RAM", "1G"}, {"ATLAS_KV_RAM", "1536M"}}, "ATLAS_RAM=1G: allowed is 0 with ATLAS_KV_RAM=1536M"},
        {{{"ATLAS_RAM", "1G"}, {"ATLAS_WEIGHTS_RAM", "64M"}}, "ATLAS_RAM=1G: allowed is 0 with ATLAS_WEIGHTS_RAM=64M"},
        {{{"ATLAS_RAM", "1G"}, {"ATLAS_WEIGHTS", "host"}}, "ATLAS_RAM=1G: allowed is 0 with ATLAS_WEIGHTS=host"},
        {{{"ATLAS_RAM", "1G"}, {"ATLAS_LEVEL", "0"}}, "ATLAS_RAM=1G: allowed is 0 with ATLAS_WEIGHTS=host"},
        {{{"ATLAS_RAM", "1G"}, {"ATLAS_DEVICE", "accel"}}, "ATLAS_RAM=1G: allowed is 0 with ATLAS_DEVICE=accel"},
        {{{"ATLAS_KV_DISK", "/d"}},
         "ATLAS_KV_DISK=/d: allowed is none without ATLAS_KV_RAM or ATLAS_RAM, beyond which pages go there"},
        {{{"ATLAS_RAM", "1G"}, {"ATLAS_KV_RAM", "0"}, {"ATLAS_KV_DISK", "/d"}}, ""},
        {{{"ATLAS_MEMORY", "1"}, {"ATLAS_MODE", "window"}}, "ATLAS_MEMORY=1: allowed is 0 with ATLAS_MODE=window"}};
    for (const auto& [environment, text] : cases) {
        Options options;
        EXPECT_EQ(parse(environment, &options).message(), text);
    }
}

TEST(OptionsTest, ABlendHasDefaultsOfItsOwnAndGoesWithTheWindowToo) {
    Options options;
    ASSERT_TRUE(
        parse({{"ATLAS_MEMORY", "1"}, {"ATLAS_MODE", "window"}, {"ATLAS_MEMORY_MODE", "blend"}}, &options).is_ok());
    EXPECT_EQ(options.memory.mode, MemoryMode::kBlend);
    EXPECT_DOUBLE_EQ(options.memory.blend_ratio, 0.1);
    EXPECT_EQ(options.memory.kind, FarMemoryKind::kDeep);
    EXPECT_EQ(options.memory.chunk, 64);
    ASSERT_TRUE(parse({{"ATLAS_MEMORY_MODE", "blend"}, {"ATLAS_BLEND_RATIO", "0.3"}}, &options).is_ok());
    EXPECT_DOUBLE_EQ(options.memory.blend_ratio, 0.3);
}

TEST(OptionsTest, OneEndOfTheBudgetMovesTheOthersDefault) {
    Options options;
    ASSERT_TRUE(parse({{"ATLAS_BUDGET", "30"}}, &options).is_ok());
    EXPECT_EQ(options.sparse.floor, 30);
    ASSERT_TRUE(parse({{"ATLAS_BUDGET_FLOOR", "5000"}}, &options).is_ok());
    EXPECT_EQ(options.sparse.budget, 5000);
    ASSERT_TRUE(parse({{"ATLAS_DEVICE", "accel"}}, &options).is_ok());
    EXPECT_EQ(options.device, DeviceMode::kAccel);
}

TEST(OptionsTest, ErrorsNameVariableValueAndWhatIsAllowed) {
    struct Case {
        const char* name;
        const char* value;
        const char* allowed;
    };
    const Case cases[] = {{"ATLAS_DEVICE", "gpu", "owner, accel"},
                          {"ATLAS_THREADS", "-1", "from 0 to 1024"},
                          {"ATLAS_THREADS", "two", "from 0 to 1024"},
                          {"ATLAS_KV_RAM", "12Q", "512M"},
                          {"ATLAS_KV_RAM", "99999999999999999999G", "bytes"},
                          {"ATLAS_BUDGET_SHARE", "nan", "from 0 to 1"},
                          {"ATLAS_PAGE_ALL", "yes", "0, 1"}};
    for (const Case& c : cases) {
        Options options;
        const Status status = parse({{c.name, c.value}}, &options);
        ASSERT_FALSE(status.is_ok()) << c.name << "=" << c.value;
        EXPECT_NE(status.message().find(std::string(c.name) + "=" + c.value), std::string::npos) << status.message();
        EXPECT_NE(status.message().find(c.allowed), std::string::npos) << status.message();
    }
}

}  // namespace
}  // namespace atlas
