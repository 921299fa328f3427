#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <stdexcept>

#include "eval/haystack.h"
#include "eval/keys.h"
#include "eval/kinds.h"
#include "eval/plan.h"
#include "eval/report.h"
#include "eval/score.h"
#include "eval/tasks.h"
#include "eval/words.h"

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

TEST(ScoreTest, AStringMayBeWrittenInSeveralWays) {
    EXPECT_EQ(share_found("It was seen three times.", {"3|three"}), 1);
    EXPECT_EQ(share_found("3 times", {"3|three"}), 1);
    EXPECT_EQ(share_found("13 times", {"3|three"}), 0);
    EXPECT_EQ(share_found("anything", {"|"}), 0);
}

/** llama_tokenize counts in int32. Two files of 1.5 GiB, which are holes: they must not be read to be refused. */
TEST(TextTest, MoreThanTwoGibibytesAreRefused) {
    const auto path = std::filesystem::temp_directory_path() / ("atlas-large-text-" + std::to_string(::getpid()));
    { std::ofstream file(path); }
    std::filesystem::resize_file(path, uint64_t{3} << 29);
    std::string said;
    try {
        read_texts({path.string(), path.string()});
    } catch (const std::runtime_error& error) {
        said = error.what();
    }
    std::filesystem::remove(path);
    EXPECT_EQ(said, "a text of 3221225472 bytes: llama.cpp tokenises at most 2147483631, give less of it");
    EXPECT_NO_THROW(check_text_bytes(2147483631));
    EXPECT_THROW(check_text_bytes(2147483632), std::runtime_error);
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
    EXPECT_EQ(parse_mode("sparse:ATLAS_SEED=2@exact:ATLAS_KERNEL=avx2", &mode), "");
    EXPECT_EQ(mode.reader, "exact:ATLAS_KERNEL=avx2");
    EXPECT_EQ(mode.environment.back(), std::pair(std::string("ATLAS_SEED"), std::string("2")));
    EXPECT_FALSE(mode.is_exact());
    EXPECT_EQ(parse_mode(mode.reader, &mode), "");
    EXPECT_TRUE(mode.is_exact());
    EXPECT_EQ(mode.reader, "");
    EXPECT_NE(parse_mode("sparse@fast", &mode).find("fast: no such mode"), std::string::npos);
    EXPECT_NE(parse_mode("sparse@", &mode).find("no such mode"), std::string::npos);
    EXPECT_NE(parse_mode("sparse@exact@host", &mode).find("only one mode can read"), std::string::npos);
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
    plan.wording = Wording::kVaried;
    plan.chat = true;
    plan.states = "/s";
    plan.perplexity_texts = {{"docs", {"a", "b"}}, {"code", {"c"}}};
    plan.perplexity_tail = 7;
    plan.repeat_text = true;
    const nlohmann::json json = plan;
    const Plan back = nlohmann::json::parse(json.dump());
    EXPECT_EQ(nlohmann::json(back), json);
    EXPECT_EQ(back.seed, plan.seed);
    EXPECT_EQ(back.wording, Wording::kVaried);
    EXPECT_TRUE(back.chat);
    ASSERT_EQ(perplexity_texts(back).size(), 2u);
    EXPECT_EQ(perplexity_texts(back)[0].files[1], "b");
    EXPECT_EQ(perplexity_texts(Plan())[0].name, "text");
}

TEST(TaskTest, PlantsHoldWhatIsExpectedAndNothingElseOfTheQuestion) {
    Plan plan;
    for (const Wording wording : {Wording::kPlain, Wording::kRuler, Wording::kVaried}) {
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
            EXPECT_EQ(question.task, task);
            if (!question.answer.empty()) {
                EXPECT_EQ(share_found(question.answer, question.expected), 1) << task;
            }
            if (task == "counting") continue;  // the number is nowhere in the text
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
    const std::map<std::string, size_t> most = {{"multi-key", 9}, {"multi-query", 2}, {"codes", 9},
                                                {"names", 9},     {"sentences", 9},   {"two-hop", 4},
                                                {"counting", 3},  {"identifiers", 9}, {"qa", 9}};
    for (const Wording wording : {Wording::kPlain, Wording::kRuler, Wording::kVaried}) {
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
            EXPECT_EQ(b.questions.size(), most.contains(task) ? most.at(task) : 1u) << task;
            std::set<std::string> asked;
            for (const Question& question : b.questions) {
                // Two places may have been built of the same stone, two people seen as often.
                for (const std::string& word : task == "qa" || task == "counting" ? Strings() : question.expected)
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

TEST(KindTest, EveryFactHasItsOwnWords) {
    Plan plan;
    plan.distractors = 19;
    plan.questions = 100;
    for (const std::string& kind : kind_names()) {
        Random random(1, kind);
        const Trial trial = make_kind(kind, plan, random);
        std::set<std::string> questions;
        std::set<std::string> forms;
        for (const Question& question : trial.questions) {
            EXPECT_TRUE(questions.insert(question.text).second) << question.text;
            EXPECT_EQ(question.text.find('{'), std::string::npos) << question.text;
            EXPECT_EQ(question.opening.find('{'), std::string::npos) << question.opening;
            forms.insert(question.text.substr(0, 8));
        }
        EXPECT_GE(forms.size(), 2u) << kind << " always asks alike";
        forms.clear();
        for (const std::string& plant : trial.plants) {
            EXPECT_EQ(plant.find('{'), std::string::npos) << plant;
            forms.insert(plant.substr(plant.size() - 4));
        }
        EXPECT_GE(forms.size(), 2u) << kind;
    }
}

TEST(KindTest, CountsAreRightAndHopsAreTwo) {
    Plan plan;
    plan.distractors = 20;
    plan.questions = 100;
    Random random(2, "x");
    const Trial trial = make_kind("counting", plan, random);
    std::set<std::string> counts;
    for (const Question& question : trial.questions) {
        // Names are the only words that both the plants and the opening have in capitals.
        const auto named = [&](const std::string& plant) {
            for (size_t at = plant.find_first_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ", 2); at != std::string::npos;
                 at = plant.find_first_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ", at + 1)) {
                const std::string name = plant.substr(at, plant.find_first_of(" .", at) - at);
                if (share_found(question.opening, {name}) == 1) return true;
            }
            const std::string first = plant.substr(1, plant.find(' ', 1) - 1);
            return share_found(question.opening, {first}) == 1;
        };
        const auto n = std::count_if(trial.plants.begin(), trial.plants.end(), named);
        EXPECT_EQ(question.answer, " " + std::to_string(n));
        EXPECT_TRUE(question.expected[0].starts_with(std::to_string(n) + "|"));
        counts.insert(question.answer);
    }
    EXPECT_GE(counts.size(), 2u);
    const Trial hops = make_kind("two-hop", plan, random);
    for (const Question& question : hops.questions) {
        // The plant with the code does not name who is asked about.
        for (const std::string& plant : hops.plants) {
            if (share_found(plant, question.expected) < 1) continue;
            const std::string town = plant.substr(plant.find("town of ") + 8);
            EXPECT_EQ(question.text.find(town.substr(0, town.find_first_of(" .,"))), std::string::npos) << plant;
        }
    }
}

TEST(TaskTest, PartsShareADocument) {
    Plan plan;
    plan.questions = 100;
    plan.wording = Wording::kVaried;
    EXPECT_EQ(parts_of("codes"), Strings{"codes"});
    EXPECT_EQ(parts_of("codes+qa+"), (Strings{"codes", "qa", ""}));
    Random random(1, "x");
    const Trial trial = make_trial("variable-tracking+codes+counting", plan, random);
    std::map<std::string, int> questions;
    for (const Question& question : trial.questions) ++questions[question.task];
    EXPECT_EQ(questions, (std::map<std::string, int>{{"variable-tracking", 1}, {"codes", 9}, {"counting", 3}}));
    // A variable is set before it is copied, and other facts come between.
    const Strings& names = trial.questions[0].expected;
    size_t last = 0;
    for (size_t hop = 0; hop + 1 < names.size(); ++hop) {
        const auto found = std::find_if(trial.plants.begin(), trial.plants.end(), [&](const std::string& plant) {
            return share_found(plant, {names[hop], names[hop + 1]}) == 1;
        });
        ASSERT_NE(found, trial.plants.end());
        const auto at = static_cast<size_t>(found - trial.plants.begin());
        EXPECT_GT(at, last);
        last = at;
    }
    EXPECT_GT(last, 4u);
    EXPECT_EQ(trial.answer_tokens, 32);
    EXPECT_EQ(trial.questions[1].answer_tokens, 16);
    plan.wording = Wording::kRuler;
    EXPECT_THROW(make_trial("codes+common-words", plan, random), std::invalid_argument);
    EXPECT_THROW(make_trial("codes+", plan, random), std::invalid_argument);
}

TEST(KeysTest, SharesAreOfWhatWasVisible) {
    const nlohmann::json keys = keys_of(R"({"layers": [
        {"layer": 0, "calls": 10, "exact_calls": 4, "visible_keys": 1000.0, "exact_keys": 100.0, "index_bytes": 7},
        {"layer": 3, "calls": 10, "exact_calls": 4, "visible_keys": 3000.0, "exact_keys": 500.0, "index_bytes": 8}]})");
    EXPECT_EQ(keys["share"], 0.15);
    EXPECT_EQ(keys["calls"], 20);
    EXPECT_EQ(keys["exact_calls"], 8);
    EXPECT_EQ(keys["index_bytes"], 15);
    EXPECT_EQ(keys["layers"][1]["layer"], 3);
    for (const char* nothing : {"", "{", "[]", "{}", R"({"layers": 3})", R"({"layers": [4]})", R"({"layers": []})",
                                R"({"layers": [{"layer": 0, "calls": 3, "exact_calls": 3, "visible_keys": 0.0}]})"})
        EXPECT_TRUE(keys_of(nothing).is_null()) << nothing;
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
            {{{"document", 0}, {"found", 1.0}, {"depth", 0}, {"nll", 0.5}},
             {{"document", 1}, {"found", 0.5}, {"depth", 50}, {"nll", 2.0}},
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
          {"texts",
           {{{"name", "docs"}, {"loss", std::log(10.0)}, {"kl", nullptr}},
            {{"name", "code"}, {"loss", std::log(40.0)}, {"kl", nullptr}}}},
          {"kl", nullptr}}}};
    result["retrieval"].push_back(result["retrieval"][0]);
    result["retrieval"][1]["task"] = "qa";
    summarize(&result);
    nlohmann::json other = result;
    other["perplexity"]["loss"] = std::log(21.0);
    other["perplexity"]["kl"] = {{"positions", 100}, {"mean", 0.0123}, {"p99", 0.1}, {"same_top_token", 0.975}};
    other["perplexity"]["texts"][1]["kl"] = other["perplexity"]["kl"];
    other["keys"] = {{"retrieval", keys_of(R"({"layers": [
        {"layer": 0, "calls": 2, "exact_calls": 1, "visible_keys": 1000.0, "exact_keys": 100.0, "index_bytes": 1048576},
        {"layer": 1, "calls": 2, "exact_calls": 1, "visible_keys": 1000.0, "exact_keys": 300.0, "index_bytes": 0}]})")}};
    // As many right, but not the same ones.
    nlohmann::json& trials = other["retrieval"][0]["trials"];
    trials[0]["found"] = 0.0;
    trials[1]["found"] = 1.0;
    summarize(&other);
    nlohmann::json third = result;
    for (nlohmann::json& trial : third["retrieval"][0]["trials"]) trial["found"] = 0.5;
    summarize(&third);
    nlohmann::json report = {
        {"plan",
         {{"model", "/a/model<1>.gguf"}, {"tasks", {"single"}}, {"kl_positions", 100}, {"perplexity_batch", 512}}},
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
    for (const char* part :
         {"| single, 128 | 2/3 = 67 % (21–94) |", "| – −ln of the answers | 1.250 | 1.250 |",
          "| all | 4/6 = 67 % (30–90) | 4/6 = 67 % (30–90), 1 : 1 | 2/6 = 33 % (10–70), 2 : 0 |",
          "| docs: perplexity, ratio, KL, same token | 10.000 | 10.000 |",
          "| code: perplexity, ratio, KL, same token | 40.000 | 40.000, 1.0000, 0.01230, 97.50 % |",
          "| retrieval: share of visible keys | all | 20.00 % | all |",
          "| – least and most of a layer |  | 10.00–30.00 % |  |", "| – exact calls of all |  | 2 of 4 |  |",
          "| – index, MiB |  | 1.0 |  |", "| – documents all right | 1/2 | 1/2 | 0/2 |",
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
