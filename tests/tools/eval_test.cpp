#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "eval/haystack.h"
#include "eval/plan.h"
#include "eval/report.h"
#include "eval/score.h"
#include "eval/tasks.h"

namespace atlas::eval {
namespace {

TEST(ScoreTest, WilsonMatchesItsTable) {
    // Values of the closed form at z = 1.96, computed by hand for the ends and the middle.
    EXPECT_NEAR(wilson(0, 10).high, 0.2775, 1e-4);
    EXPECT_EQ(wilson(0, 10).low, 0);
    EXPECT_NEAR(wilson(10, 10).low, 0.7225, 1e-4);
    EXPECT_NEAR(wilson(50, 100).low, 0.4038, 1e-4);
    EXPECT_NEAR(wilson(50, 100).high, 0.5962, 1e-4);
    EXPECT_EQ(wilson(0, 0).high, 1);
}

TEST(ScoreTest, OnlyWholeWordsAreFound) {
    EXPECT_EQ(share_found(" 48213.", {"48213"}), 1);
    EXPECT_EQ(share_found("148213", {"48213"}), 0);
    EXPECT_EQ(share_found("482130, 48213", {"48213"}), 1);
    EXPECT_EQ(share_found("ABC, XYZ.", {"ABC", "DEF"}), 0.5);
    EXPECT_EQ(share_found("", {"1"}), 0);
}

TEST(ModeTest, NamesAndVariables) {
    Mode mode;
    EXPECT_EQ(parse_mode("sparse:ATLAS_REST=drop+ATLAS_BUDGET=100", &mode), "");
    EXPECT_TRUE(mode.with_atlas);
    ASSERT_EQ(mode.environment.size(), 4u);
    EXPECT_EQ(mode.environment[0], std::pair(std::string("ATLAS_MODE"), std::string("sparse")));
    EXPECT_EQ(mode.environment[1], std::pair(std::string("ATLAS_MEMORY"), std::string("0")));
    EXPECT_EQ(mode.environment[3], std::pair(std::string("ATLAS_BUDGET"), std::string("100")));
    EXPECT_EQ(parse_mode("memory", &mode), "");
    ASSERT_EQ(mode.environment.size(), 2u);
    EXPECT_EQ(mode.environment[0], std::pair(std::string("ATLAS_MODE"), std::string("sparse")));
    EXPECT_EQ(mode.environment[1], std::pair(std::string("ATLAS_MEMORY"), std::string("1")));
    EXPECT_EQ(parse_mode("host", &mode), "");
    EXPECT_FALSE(mode.with_atlas);
    EXPECT_NE(parse_mode("fast", &mode).find("fast: no such mode"), std::string::npos);
    EXPECT_NE(parse_mode("host:ATLAS_SEED=1", &mode).find("takes no variables"), std::string::npos);
    EXPECT_NE(parse_mode("sparse:PATH=1", &mode).find("PATH=1"), std::string::npos);
}

TEST(PlanTest, SurvivesJson) {
    Plan plan;
    plan.model = "m.gguf";
    plan.texts = {"a", "b"};
    plan.tasks = {"single"};
    plan.lengths = {128, 256};
    plan.depths = {0, 100};
    plan.seed = 1ull << 63;
    plan.wording = Wording::kChat;
    plan.repeat_text = true;
    const nlohmann::json json = plan;
    const Plan back = nlohmann::json::parse(json.dump());
    EXPECT_EQ(nlohmann::json(back), json);
    EXPECT_EQ(back.seed, plan.seed);
    EXPECT_EQ(back.wording, Wording::kChat);
}

TEST(TaskTest, PlantsHoldWhatIsExpectedAndNothingElseOfTheQuestion) {
    Plan plan;
    for (const Wording wording : {Wording::kPlain, Wording::kRuler}) {
        plan.wording = wording;
        for (const std::string& task : task_names()) {
            Random random(1, task);
            const Trial trial = make_trial(task, plan, random);
            ASSERT_EQ(trial.questions.size(), 1u) << task;
            const Question& question = trial.questions[0];
            ASSERT_FALSE(question.expected.empty()) << task;
            ASSERT_FALSE(trial.plants.empty() && trial.words.empty()) << task;
            std::string document;
            for (const std::string& plant : trial.plants) {
                EXPECT_EQ(plant.front(), ' ');
                document += plant;
            }
            for (const std::string& word : trial.words) document += " " + word;
            for (const std::string& word : question.expected) {
                EXPECT_EQ(share_found(document, {word}), 1) << task;
                // An opening that holds the answer would make the task trivial.
                EXPECT_EQ(share_found(question.opening, {word}), 0) << task;
            }
        }
    }
    Random random(1, "x");
    EXPECT_EQ(make_trial("multi-key", plan, random).plants.size(), 9u);
    EXPECT_THROW(make_trial("nothing", plan, random), std::invalid_argument);
}

TEST(TaskTest, MoreQuestionsAskForOtherFactsOfTheSameDocument) {
    Plan one;
    for (const Wording wording : {Wording::kPlain, Wording::kRuler}) {
        one.wording = wording;
        Plan many = one;
        many.questions = 100;
        for (const std::string& task : task_names()) {
            Random random(3, task);
            Random same(3, task);
            const Trial a = make_trial(task, one, random);
            const Trial b = make_trial(task, many, same);
            EXPECT_EQ(a.plants, b.plants) << task;
            EXPECT_EQ(a.words, b.words) << task;
            EXPECT_EQ(a.answer_tokens, b.answer_tokens) << task;
            EXPECT_EQ(a.questions[0].text, b.questions[0].text) << task;
            EXPECT_EQ(a.questions[0].opening, b.questions[0].opening) << task;
            EXPECT_EQ(a.questions[0].expected, b.questions[0].expected) << task;
            EXPECT_EQ(random.next(), same.next()) << task << ": the next document would be another";
            EXPECT_EQ(b.questions.size(), task == "multi-key" ? 9u : task == "multi-query" ? 2u : 1u) << task;
            std::set<std::string> asked;
            for (const Question& question : b.questions) {
                for (const std::string& word : question.expected)
                    EXPECT_TRUE(asked.insert(word).second) << task << " asks twice for " << word;
                if (task != "multi-key" || wording != Wording::kPlain) continue;
                const std::string fact = " " + question.opening + " " + question.expected[0] + ".";
                EXPECT_EQ(std::count(b.plants.begin(), b.plants.end(), fact), 1) << fact;
                // "What is the secret code of Karodin?", "The secret code of Karodin is"
                const std::string name = question.text.substr(std::string("What is the secret code of ").size());
                EXPECT_EQ(question.opening, "The secret code of " + name.substr(0, name.size() - 1) + " is");
            }
        }
    }
    Plan three;
    three.questions = 3;
    Random random(3, "x");
    EXPECT_EQ(make_trial("multi-key", three, random).questions.size(), 3u);
}

TEST(TaskTest, SameSeedSameTrial) {
    const Plan plan;
    Random a(7, "single 128");
    Random b(7, "single 128");
    Random c(8, "single 128");
    EXPECT_EQ(make_trial("single", plan, a).questions[0].text, make_trial("single", plan, b).questions[0].text);
    EXPECT_NE(make_trial("single", plan, a).questions[0].expected, make_trial("single", plan, c).questions[0].expected);
}

TEST(HaystackTest, SentencesJoinToTheText) {
    std::string text = "One. Two? No end 3.14 here! \n\nA title\n\nlast words";
    text += std::string(3000, 'x') + " " + std::string(100, 'y');
    const std::vector<std::string> sentences = split_sentences(text);
    std::string joined;
    for (const std::string& sentence : sentences) joined += sentence;
    EXPECT_EQ(joined, text);
    EXPECT_EQ(sentences.front(), "One.");
    EXPECT_EQ(sentences[1], " Two?");
    EXPECT_EQ(sentences[2], " No end 3.14 here!");
    EXPECT_GE(sentences.size(), 6u);
}

nlohmann::json made_up_report() {
    nlohmann::json result = {
        {"peak_memory_mib", 10.0},
        {"retrieval",
         {{{"task", "single"},
           {"length", 128},
           {"trials",
            {{{"document", 0}, {"found", 1.0}, {"depth", 0}},
             {{"document", 1}, {"found", 0.5}, {"depth", 50}},
             {{"document", 1}, {"found", 1.0}, {"depth", 50}}}},
           {"prompt_tokens", 300},
           {"prompt_seconds", 3.0},
           {"answer_tokens", 10},
           {"answer_seconds", 2.0}}}},
        {"perplexity",
         {{"context", 512},
          {"documents", 1},
          {"loss", std::log(20.0)},
          {"perplexity", 20.0},
          {"standard_error", 0.1},
          {"by_position", {{{"from", 1}, {"to", 256}, {"loss", 3.1}}, {{"from", 256}, {"to", 512}, {"loss", 2.9}}}},
          {"kl", nullptr}}}};
    summarize(&result);
    nlohmann::json other = result;
    other["perplexity"]["loss"] = std::log(21.0);
    other["perplexity"]["kl"] = {{"positions", 100}, {"mean", 0.0123}, {"p99", 0.1}, {"same_top_token", 0.975}};
    // As many right, but not the same ones.
    nlohmann::json& trials = other["retrieval"][0]["trials"];
    trials[0]["found"] = 0.0;
    trials[1]["found"] = 1.0;
    summarize(&other);
    nlohmann::json third = result;
    for (nlohmann::json& trial : third["retrieval"][0]["trials"]) trial["found"] = 0.5;
    summarize(&third);
    nlohmann::json report = {{"plan", {{"model", "/a/model<1>.gguf"}, {"tasks", {"single"}}, {"kl_positions", 100}, {"perplexity_batch", 512}}},
                             {"modes",
                              {{{"name", "host"}, {"result", result}},
                               {{"name", "sparse"}, {"result", other}},
                               {{"name", "window"}, {"result", third}}}}};
    compare(&report);
    return report;
}

TEST(ReportTest, SummaryCountsExactMatchesByDepth) {
    const nlohmann::json report = made_up_report();
    const nlohmann::json& row = report["modes"][0]["result"]["retrieval"][0];
    EXPECT_EQ(row["hits"], 2);
    EXPECT_NEAR(row["share_found"].get<double>(), 2.5 / 3, 1e-12);
    EXPECT_EQ(row["by_depth"][1]["depth"], 50);
    EXPECT_EQ(row["by_depth"][1]["hits"], 1);
    EXPECT_EQ(row["by_depth"][1]["trials"], 2);
    EXPECT_EQ(row["documents"], 2);
    EXPECT_EQ(row["documents_right"], 1);
    EXPECT_FALSE(row.contains("only_first"));
}

TEST(ReportTest, TrialsAreComparedInPairs) {
    const nlohmann::json report = made_up_report();
    const nlohmann::json& sparse = report["modes"][1]["result"]["retrieval"][0];
    EXPECT_EQ(sparse["hits"], 2);
    EXPECT_EQ(sparse["only_first"], 1);
    EXPECT_EQ(sparse["only_here"], 1);
    EXPECT_EQ(sparse["documents_right"], 1);
    const nlohmann::json& window = report["modes"][2]["result"]["retrieval"][0];
    EXPECT_EQ(window["only_first"], 2);
    EXPECT_EQ(window["only_here"], 0);
    EXPECT_EQ(window["documents_right"], 0);
}

TEST(ReportTest, TablesAndPictureShowTheFigures) {
    const nlohmann::json report = made_up_report();
    const std::string text = tables(report);
    for (const char* part : {"| single, 128 | 2/3 = 67 % (21–94) |", "| – documents all right | 1/2 | 1/2 | 0/2 |",
                             "| – right only in host : only here | – | 1 : 1 | 2 : 0 |", "| reading 128 | 100 | 100 |",
                             "| writing at 128 | 5.0 | 5.0 |", "| ratio to host | 1.0000 | 1.0500 |",
                             "| KL divergence, mean | – | 0.01230 |", "| same likeliest token | – | 97.50 % |",
                             "| loss at 256–511 | 2.9000 | 2.9000 |"})
        EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
    const std::string svg = picture(report);
    EXPECT_NE(svg.find("model&lt;1>.gguf"), std::string::npos);
    EXPECT_NE(svg.find("single: accuracy by length"), std::string::npos);
    EXPECT_EQ(svg.find("nan"), std::string::npos);
    // Accuracy 2/3 in two modes, loss, and two speeds.
    EXPECT_EQ(std::count(svg.begin(), svg.end(), '\n') > 40, true);
}

}  // namespace
}  // namespace atlas::eval
