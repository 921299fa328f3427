#include <chrono>
#include <stdexcept>

#include "eval/haystack.h"
#include "eval/measure.h"
#include "eval/score.h"
#include "eval/tasks.h"

namespace atlas::eval {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

/** What one task did at one length. */
struct Row {
    nlohmann::json trials = nlohmann::json::array();
    int64_t prompt_tokens = 0;
    int64_t answer_tokens = 0;
    double prompt_seconds = 0;
    double answer_seconds = 0;
};

/** Asks each question behind the document, which is read once if the model's memory can go back to its end. */
void ask_all(Session& session, const Trial& trial, const Prompt& prompt, const nlohmann::json& record, bool one_line,
             Row* row) {
    const int document = static_cast<int>(prompt.document.size());
    for (size_t i = 0; i < trial.questions.size(); ++i) {
        const Tokens& question = prompt.questions[i];
        if (i > 0 && session.keep(document)) {
            // Not part of the reading speed: a few tokens behind a long text are neither reading nor writing.
            session.decode(question.data(), static_cast<int>(question.size()), false);
        } else {
            // The first one is read as if it were the only one: in the same batches as the end of the document.
            Tokens all = prompt.document;
            all.insert(all.end(), question.begin(), question.end());
            session.clear();
            const auto begin = Clock::now();
            session.decode(all.data(), static_cast<int>(all.size()), false);
            row->prompt_seconds += seconds_since(begin);
            row->prompt_tokens += static_cast<int64_t>(all.size());
        }
        const auto begin = Clock::now();
        int written = 0;
        const std::string answer = session.generate(trial.answer_tokens, one_line, &written);
        row->answer_seconds += seconds_since(begin);
        // The first token of an answer comes from the question's logits.
        row->answer_tokens += std::max(0, written - 1);
        const std::vector<std::string>& expected = trial.questions[i].expected;
        nlohmann::json asked = record;
        if (prompt.places[i] >= 0) asked["place"] = prompt.places[i];
        asked["question"] = trial.questions[i].text;
        asked["expected"] = expected;
        asked["answer"] = answer;
        asked["found"] = share_found(answer, expected);
        row->trials.push_back(std::move(asked));
    }
}

}  // namespace

int64_t work_of(const Plan& plan) {
    int64_t tokens = static_cast<int64_t>(plan.perplexity_context) * plan.perplexity_documents;
    for (const int length : plan.lengths)
        tokens += static_cast<int64_t>(length) * plan.samples * static_cast<int64_t>(plan.tasks.size());
    return tokens;
}

nlohmann::json measure_retrieval(Session& session, const Plan& plan, const std::string& text,
                                 const Progress& progress) {
    const Haystack haystack(session, plan, split_sentences(text));
    nlohmann::json rows = nlohmann::json::array();
    for (const std::string& task : plan.tasks) {
        for (const int length : plan.lengths) {
            const std::string what = task + " " + std::to_string(length);
            Random random(plan.seed, what);
            Row row;
            for (int sample = 0; sample < plan.samples; ++sample) {
                const int depth = plan.depths[static_cast<size_t>(sample) % plan.depths.size()];
                const Trial trial = make_trial(task, plan, random);
                Prompt prompt;
                try {
                    prompt = haystack.prompt(trial, length, depth, random);
                } catch (const std::runtime_error& error) {
                    throw std::runtime_error(what + ": " + error.what());
                }
                nlohmann::json record = {{"document", sample}};
                if (trial.plants.size() == 1) record["depth"] = depth;
                ask_all(session, trial, prompt, record, plan.wording == Wording::kPlain, &row);
                progress(what, length);
            }
            rows.push_back({{"task", task},
                            {"length", length},
                            {"trials", std::move(row.trials)},
                            {"prompt_tokens", row.prompt_tokens},
                            {"prompt_seconds", row.prompt_seconds},
                            {"answer_tokens", row.answer_tokens},
                            {"answer_seconds", row.answer_seconds}});
        }
    }
    return rows;
}

}  // namespace atlas::eval
