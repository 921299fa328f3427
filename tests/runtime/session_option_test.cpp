#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "plain_call.h"
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

void expect_error(const Status& status, StatusCode code, const std::string& message) {
    EXPECT_EQ(status.code(), code);
    EXPECT_EQ(status.message(), message);
}

TEST(SessionOptionTest, ReachesPlannerAndMemoriesOfThisSessionAlone) {
    const auto runtime = std::make_shared<Runtime>(options_of({{"ATLAS_MODE", "sparse"}, {"ATLAS_MEMORY", "1"}}));
    Session one(runtime), other(runtime);
    for (const auto& [name, value] : {std::pair{"ATLAS_WINDOW", "1024"},
                                      {"ATLAS_BUDGET", "4096"},
                                      {"ATLAS_BUDGET_FLOOR", "128"},
                                      {"ATLAS_BUDGET_SHARE", "0.25"},
                                      {"ATLAS_REST", "drop"},
                                      {"ATLAS_SEED", "7"},
                                      {"ATLAS_THREADS", "3"},
                                      {"ATLAS_MEMORY_PROBE", "5"},
                                      {"ATLAS_WARM_UP", "9"}})
        EXPECT_TRUE(one.set_option(name, value).is_ok()) << name;
    EXPECT_EQ(one.settings().window, 1024);
    EXPECT_EQ(one.settings().budget, 4096);
    EXPECT_EQ(one.settings().floor, 128);
    EXPECT_EQ(one.settings().share, 0.25);
    EXPECT_EQ(one.settings().rest, Rest::kDrop);
    EXPECT_EQ(one.settings().seed, 7);
    EXPECT_EQ(one.options().threads, 3);
    EXPECT_EQ(one.memory_options().probe_every, 5);
    EXPECT_EQ(one.memory_options().warm_up, 9);
    EXPECT_EQ(other.settings().window, SparseOptions{}.window);
    EXPECT_EQ(other.options().threads, 0);
    EXPECT_EQ(other.memory_options(), runtime->options().memory);
}

TEST(SessionOptionTest, AnEmptyTextTakesBackWhatWasSetHere) {
    const auto runtime = std::make_shared<Runtime>(options_of({{"ATLAS_MODE", "sparse"}, {"ATLAS_WINDOW", "256"}}));
    Session session(runtime);
    ASSERT_TRUE(session.set_option("ATLAS_WINDOW", "1024").is_ok());
    ASSERT_TRUE(session.set_option("ATLAS_WINDOW", "").is_ok());
    EXPECT_EQ(session.settings().window, 256);
    // What followed goes with what it followed.
    ASSERT_TRUE(session.set_option("ATLAS_BUDGET_FLOOR", "5000").is_ok());
    EXPECT_EQ(session.settings().budget, 5000);
    ASSERT_TRUE(session.set_option("ATLAS_BUDGET_FLOOR", "").is_ok());
    EXPECT_EQ(session.settings().budget, SparseOptions{}.budget);
    EXPECT_EQ(session.settings().floor, SparseOptions{}.floor);
}

TEST(SessionOptionTest, TheModeSwitches) {
    const auto runtime = std::make_shared<Runtime>(Options{});
    Session session(runtime);
    EXPECT_FALSE(session.enabled());
    EXPECT_TRUE(session.memory_options().enabled);  // once it is switched on
    ASSERT_TRUE(session.set_option("ATLAS_MODE", "sparse").is_ok());
    EXPECT_TRUE(session.enabled());
    EXPECT_FALSE(session.memory_options().enabled);
    ASSERT_TRUE(session.set_option("ATLAS_MODE", "window").is_ok());
    EXPECT_EQ(session.settings().mode, AttentionMode::kWindow);
    ASSERT_TRUE(session.set_option("ATLAS_BUDGET", "100").is_ok());
    EXPECT_TRUE(session.enabled());
    ASSERT_TRUE(session.set_option("ATLAS_MODE", "").is_ok());
    EXPECT_FALSE(session.enabled());
    ASSERT_TRUE(session.set_option("ATLAS_MEMORY", "0").is_ok());
    session.set_enabled(true);
    EXPECT_FALSE(session.memory_options().enabled);
}

TEST(SessionOptionTest, ErrorsChangeNothing) {
    const auto runtime = std::make_shared<Runtime>(options_of({{"ATLAS_MODE", "sparse"}, {"ATLAS_BUDGET", "512"}}));
    Session session(runtime);
    expect_error(session.set_option("ATLAS_WINDOW", "-1"), StatusCode::kInvalidArgument,
                 "ATLAS_WINDOW=-1: allowed is a whole number from 0 to 1073741824");
    expect_error(session.set_option("ATLAS_BUDGET_FLOOR", "600"), StatusCode::kInvalidArgument,
                 "ATLAS_BUDGET_FLOOR=600: allowed is at most ATLAS_BUDGET=512");
    expect_error(session.set_option("ATLAS_WIDNOW", "1"), StatusCode::kInvalidArgument,
                 "ATLAS_WIDNOW is no option of Atlas; did you mean ATLAS_WINDOW?");
    expect_error(session.set_option("ATLAS_KV_RAM", "1G"), StatusCode::kUnsupported,
                 "ATLAS_KV_RAM counts only when the library is loaded: all KV caches of the process share it");
    EXPECT_EQ(session.settings().window, SparseOptions{}.window);
    EXPECT_EQ(session.settings().floor, SparseOptions{}.floor);
    ASSERT_TRUE(session.set_option("ATLAS_BUDGET_FLOOR", "500").is_ok());
}

TEST(SessionOptionTest, WhatIsAskedForHereAndTakesNoPartIsCounted) {
    const auto runtime = std::make_shared<Runtime>(Options{});
    Session session(runtime);
    Call().attend(session);
    EXPECT_TRUE(runtime->absences().empty());
    ASSERT_TRUE(session.set_option("ATLAS_THRESHOLD", "0").is_ok());
    ASSERT_TRUE(session.set_option("ATLAS_MODE", "sparse").is_ok());
    Call().attend(session);
    EXPECT_EQ(runtime->absences().of[static_cast<size_t>(attention::Absence::kNotInCells)].calls, 1u);
}

}  // namespace
}  // namespace atlas::runtime
