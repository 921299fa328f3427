#include <ggml-backend.h>
#include <gtest/gtest.h>
#include <llama.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "eval/haystack.h"
#include "eval/plan.h"
#include "eval/reader.h"
#include "eval/session.h"
#include "eval/tasks.h"

namespace atlas::eval {
namespace {

/** The shipped model in llama.cpp alone, and a text for it. */
struct Reading {
    Plan plan;
    std::unique_ptr<Session> session;
    std::vector<std::string> sentences;

    Reading() {
        ggml_backend_load_all();
        llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
        plan.model = ATLAS_TEST_MODEL;
        plan.threads = 2;
        session = std::make_unique<Session>(plan);
        session->open(512);
        std::string text;
        for (int i = 0; i < 200; ++i) text += "The man number " + std::to_string(i) + " went along the long road. ";
        sentences = split_sentences(text);
    }

    std::vector<float> logits() const { return {session->logits(-1), session->logits(-1) + session->vocabulary()}; }
    void read(const Tokens& tokens) const { session->decode(tokens.data(), static_cast<int>(tokens.size()), false); }
};

TEST(ReadingTest, QuestionsShareTheDocument) {
    const Reading reading;
    const Haystack haystack(*reading.session, reading.plan, reading.sentences);
    Plan many = reading.plan;
    many.questions = 9;
    int same_documents = 0;
    const std::vector<int> lengths = {320, 448, 449, 450, 451, 452};
    for (const int length : lengths) {
        Random random(4, "x");
        Random same(4, "x");
        const Trial trial = make_trial("multi-key", reading.plan, random);
        const Prompt one = haystack.prompt(trial, length, 0, random);
        const Prompt nine = haystack.prompt(make_trial("multi-key", many, same), length, 0, same);
        ASSERT_EQ(nine.questions.size(), 9u);
        EXPECT_EQ(one.questions[0], nine.questions[0]);
        for (const Tokens& question : nine.questions)
            EXPECT_LE(static_cast<int>(nine.document.size() + question.size()), length - trial.answer_tokens);
        EXPECT_LE(nine.document.size(), one.document.size());
        same_documents += nine.document == one.document;
        const std::set<int> places(nine.places.begin(), nine.places.end());
        EXPECT_GE(*places.begin(), 0);
        EXPECT_LE(*places.rbegin(), 100);
        EXPECT_GT(places.size(), 6u) << "the facts are spread over the text";
    }
    // Only where a longer question does not fit behind it a document is cut further.
    EXPECT_GE(same_documents, 4);
}

TEST(ReadingTest, WhatFollowsTheDocumentIsForgotten) {
    const Reading reading;
    Session& session = *reading.session;
    const Haystack haystack(session, reading.plan, reading.sentences);
    Plan plan = reading.plan;
    plan.questions = 2;
    Random random(5, "x");
    const Trial trial = make_trial("multi-key", plan, random);
    const Prompt prompt = haystack.prompt(trial, 448, 0, random);
    const auto furthest = [](const std::vector<float>& a, const std::vector<float>& b) {
        float most = 0;
        for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
        return most;
    };
    session.clear();
    reading.read(prompt.document);
    reading.read(prompt.questions[1]);
    const std::vector<float> alone = reading.logits();
    session.clear();
    reading.read(prompt.document);
    reading.read(prompt.questions[0]);
    int written = 0;
    session.generate(8, true, &written);
    reading.read(prompt.questions[1]);
    EXPECT_GT(furthest(reading.logits(), alone), 0.1f)
        << "the first question makes no difference: this test sees nothing";
    ASSERT_TRUE(session.keep(static_cast<int>(prompt.document.size())));
    reading.read(prompt.questions[1]);
    EXPECT_LT(furthest(reading.logits(), alone), 1e-3f);
}

/** A folder for one test. */
struct Folder {
    std::filesystem::path path;
    Folder() {
        std::string name = (std::filesystem::temp_directory_path() / "atlas-eval-XXXXXX").string();
        if (!mkdtemp(name.data())) throw std::runtime_error(name);
        path = name;
    }
    ~Folder() { std::filesystem::remove_all(path); }
};

TEST(ReaderTest, WhatWasReadIsThereTheNextTime) {
    const Reading reading;
    Session& session = *reading.session;
    const Folder folder;
    Plan plan = reading.plan;
    plan.states = folder.path.string();
    const Tokens document =
        session.tokenize("The man number 1 went along the road. The secret code of Karodin is 48213.");
    const Tokens question = session.tokenize(" The secret code of Karodin is");
    Reader first(session, plan, "exact", true);
    EXPECT_GT(first.read(document), 0);
    reading.read(question);
    const std::vector<float> fresh = reading.logits();

    Reader second(session, plan, "exact", false);
    session.clear();
    EXPECT_EQ(second.read(document), 0);
    reading.read(question);
    EXPECT_EQ(reading.logits(), fresh);
    reading.read(question);
    EXPECT_NE(reading.logits(), fresh) << "the second question makes no difference: this test sees nothing";
    ASSERT_TRUE(second.back());
    reading.read(question);
    const std::vector<float> again = reading.logits();
    for (size_t i = 0; i < fresh.size(); ++i) ASSERT_NEAR(again[i], fresh[i], 1e-3f);

    // Everything that what was read depends on names another file.
    Plan other = plan;
    other.cache_type_k = "q8_0";
    EXPECT_NE(Reader(session, other, "exact", false).file_of(document), second.file_of(document));
    EXPECT_NE(Reader(session, plan, "sparse", false).file_of(document), second.file_of(document));
    EXPECT_NE(second.file_of(question), second.file_of(document));
    EXPECT_THROW(second.read(question), std::runtime_error) << "read by another mode than the one that was asked for";
}

TEST(ReaderTest, FilesThatAreNotTheDocumentsAreRefused) {
    const Reading reading;
    Session& session = *reading.session;
    const Folder folder;
    Plan plan = reading.plan;
    plan.states = folder.path.string();
    Reader reader(session, plan, "exact", true);
    const Tokens document = session.tokenize("The man number 1 went along the road.");
    const Tokens longer = session.tokenize("The man number 1 went along the road. The man number 2 went home.");
    reader.read(document);
    reader.read(longer);
    std::filesystem::copy_file(reader.file_of(longer), reader.file_of(document),
                               std::filesystem::copy_options::overwrite_existing);
    EXPECT_THROW(reader.read(document), std::runtime_error);
    std::filesystem::resize_file(reader.file_of(longer), 40);
    EXPECT_THROW(reader.read(longer), std::runtime_error);
    std::filesystem::remove_all(folder.path);
    EXPECT_THROW(reader.read(document), std::runtime_error) << "nothing can be written there";
}

TEST(ReaderTest, FingerprintsTellFilesApart) {
    const Folder folder;
    const std::string path = folder.path / "file";
    const auto write = [&](size_t size, size_t at, char c) {
        std::string text(size, 'a');
        text[at] = c;
        std::ofstream(path, std::ios::binary) << text;
        return fingerprint(path);
    };
    const uint64_t one = write(1000, 0, 'a');
    EXPECT_EQ(write(1000, 5, 'a'), one);
    EXPECT_NE(write(1000, 999, 'b'), one);
    EXPECT_NE(write(1001, 0, 'a'), one);
    const uint64_t large = write(1 << 20, 0, 'a');
    EXPECT_NE(write(1 << 20, (1 << 20) - 1, 'b'), large);
    EXPECT_THROW(fingerprint(folder.path / "none"), std::runtime_error);
}

}  // namespace
}  // namespace atlas::eval
