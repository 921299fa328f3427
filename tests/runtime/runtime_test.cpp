#include "runtime/runtime.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "plain_call.h"
#include "runtime/session.h"
#include "side_car/calibration.h"

namespace atlas::runtime {
namespace {

using Json = nlohmann::json;

Options sparse(const std::string& stats = {}) {
    Options options;
    options.sparse.mode = AttentionMode::kSparse;
    options.sparse.threshold = 0;
    options.stats = stats;
    return options;
}

class RuntimeTest : public ::testing::Test {
protected:
    void TearDown() override { std::filesystem::remove(path_); }
    Json written() const {
        std::ifstream file(path_);
        std::stringstream text;
        text << file.rdbuf();
        return Json::parse(text.str(), nullptr, false);
    }

    const std::string path_ =
        std::filesystem::temp_directory_path() / ("atlas-runtime-" + std::to_string(getpid()) + ".json");
};

TEST_F(RuntimeTest, TwoDoNotKnowOfEachOther) {
    const auto one = std::make_shared<Runtime>(sparse());
    const auto other = std::make_shared<Runtime>(Options{});
    Session session(one);
    EXPECT_EQ(one->sessions().size(), 1u);
    EXPECT_EQ(other->sessions().size(), 0u);
    Call().attend(session);
    EXPECT_EQ(one->absences().of[static_cast<size_t>(attention::Absence::kNotInCells)].calls, 1u);
    EXPECT_TRUE(other->absences().empty());
    one->stats().add(3, attention::LayerStats{});
    EXPECT_TRUE(other->stats().empty());
    EXPECT_TRUE(session.enabled());
    EXPECT_FALSE(Session(other).enabled());
    ASSERT_TRUE(one->kv_budget().reserve(4096));
    EXPECT_EQ(other->kv_budget().in_use(), 0u);
    one->kv_budget().release(4096);
    side_car::Calibration first({}, 1), second({}, 1);
    EXPECT_TRUE(one->begin_calibration(&first));
    EXPECT_FALSE(one->begin_calibration(&second));
    EXPECT_EQ(other->calibration(), nullptr);
    EXPECT_TRUE(other->begin_calibration(&second));
    one->end_calibration(&second);  // not its own
    EXPECT_EQ(one->calibration(), &first);
    one->end_calibration(&first);
    EXPECT_EQ(one->calibration(), nullptr);
    EXPECT_EQ(other->calibration(), &second);
}

TEST_F(RuntimeTest, ItLivesUntilItsLastSessionHasEndedAndWritesThen) {
    auto runtime = std::make_shared<Runtime>(sparse(path_));
    const std::weak_ptr<Runtime> watched = runtime;
    {
        auto first = std::make_unique<Session>(runtime);
        Session second(runtime);
        Call().attend(*first);
        Call().attend(second);
        runtime.reset();
        EXPECT_TRUE(written().is_discarded());
        first.reset();
        ASSERT_FALSE(watched.expired());
        EXPECT_EQ(written()["absent"][0]["contexts"], 2) << "the living one counts, and the ended one once";
        Call().attend(second);
    }
    EXPECT_TRUE(watched.expired());
    const Json json = written();
    ASSERT_TRUE(json.is_object());
    ASSERT_EQ(json["layers"].size(), 1u);
    EXPECT_EQ(json["layers"][0]["exact_calls"], 3);
    ASSERT_EQ(json["absent"].size(), 1u);
    EXPECT_EQ(json["absent"][0]["reason"], "not_in_cells");
    EXPECT_EQ(json["absent"][0]["contexts"], 2);
    EXPECT_EQ(json["absent"][0]["calls"], 3);
}

TEST_F(RuntimeTest, StatisticsOfContextsThatNeverEnd) {
    const auto runtime = std::make_shared<Runtime>(sparse(path_));
    Session session(runtime);
    Call().attend(session);
    runtime->write_statistics();
    EXPECT_EQ(written()["absent"][0]["reason"], "not_in_cells");
}

TEST_F(RuntimeTest, ExactAttentionIsCountedToo) {
    Options options;
    options.stats = path_;
    const auto runtime = std::make_shared<Runtime>(options);
    {
        Session session(runtime);
        Call().attend(session);
    }
    const Json json = written();
    ASSERT_EQ(json["layers"].size(), 1u);
    EXPECT_EQ(json["layers"][0]["calls"], 1);
    EXPECT_EQ(json["layers"][0]["exact_calls"], 1);
}

TEST_F(RuntimeTest, WhereNothingIsToSayNothingIsWritten) {
    Options options;
    options.stats = path_;
    const auto runtime = std::make_shared<Runtime>(options);
    { Session session(runtime); }
    EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(RuntimeTest, AShortTextIsOnlyThat) {
    Options options = sparse();
    options.sparse.threshold = 1 << 20;
    const auto runtime = std::make_shared<Runtime>(options);
    ::testing::internal::CaptureStderr();
    {
        Session session(runtime);
        Call().attend(session);
    }
    EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
    EXPECT_EQ(runtime->absences().of[static_cast<size_t>(attention::Absence::kBelowThreshold)].calls, 1u);
    EXPECT_EQ(runtime->absences().of[static_cast<size_t>(attention::Absence::kNotInCells)].calls, 0u);
}

TEST_F(RuntimeTest, MemoryWithoutSparseIsSaid) {
    Options options;
    ASSERT_TRUE(set_option(options, "ATLAS_MEMORY", "1").is_ok());
    const auto runtime = std::make_shared<Runtime>(options);
    ::testing::internal::CaptureStderr();
    {
        Session session(runtime);
        Call().attend(session);
        Call().attend(session);
    }
    EXPECT_EQ(::testing::internal::GetCapturedStderr(),
              "atlas: [warning] memory takes no part in a context: attention is exact, and ATLAS_MEMORY needs "
              "ATLAS_MODE=sparse\n");
    EXPECT_EQ(runtime->absences().of[static_cast<size_t>(attention::Absence::kMemoryWithoutSparse)].contexts, 1u);
}

}  // namespace
}  // namespace atlas::runtime
