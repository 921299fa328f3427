#include "runtime/participation.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace atlas::runtime {
namespace {

using attention::Absence;

std::string said(const auto& action) {
    ::testing::internal::CaptureStderr();
    action();
    return ::testing::internal::GetCapturedStderr();
}

AbsenceCounts::Count of(const Participation& participation, Absence why) {
    return participation.counts().of[static_cast<size_t>(why)];
}

TEST(ParticipationTest, EachReasonIsSaidOnceByNameAndCounted) {
    Participation participation("sparse attention with memory");
    EXPECT_EQ(said([&] {
                  participation.note(Absence::kManyTokens);
                  participation.note(Absence::kManyTokens);
                  participation.note(Absence::kNotInCells);
              }),
              "atlas: [warning] sparse attention with memory takes no part in a context: more than 65535 tokens in one "
              "call\n"
              "atlas: [warning] sparse attention with memory takes no part in a context: keys and values do not lie in "
              "Atlas's pages as the cells of a KV cache\n");
    EXPECT_EQ(of(participation, Absence::kManyTokens).contexts, 1u);
    EXPECT_EQ(of(participation, Absence::kManyTokens).calls, 2u);
    EXPECT_EQ(of(participation, Absence::kNotInCells).calls, 1u);
    EXPECT_EQ(said([&] { participation.finish(false); }), "");
}

TEST(ParticipationTest, ShortTextsAreNoAbsenceUnlessNothingWasLong) {
    Participation mixed("sparse attention");
    mixed.note(Absence::kBelowThreshold);
    EXPECT_EQ(of(mixed, Absence::kBelowThreshold).contexts, 1u) << "so far";
    mixed.note(Absence::kNone);
    EXPECT_TRUE(mixed.counts().empty());
    EXPECT_EQ(said([&] { mixed.finish(false); }), "");

    Participation only_short("sparse attention");
    EXPECT_EQ(said([&] { only_short.note(Absence::kBelowThreshold); }), "") << "not before the end";
    EXPECT_EQ(said([&] { only_short.finish(false); }), "") << "no fault: level info";
    EXPECT_EQ(of(only_short, Absence::kBelowThreshold).contexts, 1u);
    EXPECT_EQ(of(only_short, Absence::kBelowThreshold).calls, 1u);
}

TEST(ParticipationTest, AContextWithoutAttentionSaysSo) {
    Participation participation("sparse attention");
    EXPECT_NE(said([&] { participation.finish(true); }).find("no attention ran on Atlas"), std::string::npos);
    EXPECT_EQ(of(participation, Absence::kNoAttention).contexts, 1u);
    Participation unused("sparse attention");
    EXPECT_EQ(said([&] { unused.finish(false); }), "") << "a host measures with contexts that compute nothing";
    EXPECT_TRUE(unused.counts().empty());
}

TEST(ParticipationTest, MemoryMayBeAbsentAlone) {
    Participation participation("sparse attention with memory");
    EXPECT_EQ(said([&] {
                  participation.note(Absence::kNone);
                  participation.note_memory(Absence::kMemoryAlibi);
                  participation.note(Absence::kNone);
                  participation.note_memory(Absence::kMemoryAlibi);
              }),
              "atlas: [warning] memory takes no part in a context: the model biases its logits by distance (ALiBi)\n");
    EXPECT_EQ(participation.calls(), 2u);
    EXPECT_EQ(of(participation, Absence::kMemoryAlibi).calls, 2u);
}

TEST(ParticipationTest, WhereNothingWasAskedForNothingIsSaid) {
    Participation participation("");
    EXPECT_EQ(said([&] {
                  participation.note(Absence::kNotInCells);
                  participation.finish(true);
              }),
              "");
    EXPECT_TRUE(participation.counts().empty());
}

TEST(ParticipationTest, CountsOfContextsAddUpAndAreJson) {
    AbsenceCounts sum;
    EXPECT_EQ(sum.json(), "[]");
    for (int context = 0; context < 2; ++context) {
        Participation participation("sparse attention");
        said([&] {
            participation.note(Absence::kNone);
            participation.note_memory(Absence::kMemoryAlibi);
            participation.note(Absence::kNone);
            participation.note_memory(Absence::kMemoryAlibi);
        });
        sum.add(participation.counts());
    }
    const auto json = nlohmann::json::parse(sum.json());
    ASSERT_EQ(json.size(), 1u);
    EXPECT_EQ(json[0]["reason"], "memory_alibi");
    EXPECT_EQ(json[0]["contexts"], 2);
    EXPECT_EQ(json[0]["calls"], 4);
}

TEST(AbsenceTest, EveryReasonHasAWordAndAClause) {
    for (size_t i = 1; i < attention::kAbsences; ++i) {
        EXPECT_STRNE(attention::name(static_cast<Absence>(i)), "") << i;
        EXPECT_STRNE(attention::text(static_cast<Absence>(i)), "") << i;
    }
}

}  // namespace
}  // namespace atlas::runtime
