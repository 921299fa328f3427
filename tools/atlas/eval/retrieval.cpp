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
            nlohmann::json trials = nlohmann::json::array();
            int64_t prompt_tokens = 0;
            int64_t answer_tokens = 0;
            double prompt_seconds = 0;
            double answer_seconds = 0;
            for (int sample = 0; sample < plan.samples; ++sample) {
                const int depth = plan.depths[static_cast<size_t>(sample) % plan.depths.size()];
                const Trial trial = make_trial(task, plan, random);
                Tokens prompt;
                try {
                    prompt = haystack.prompt(trial, length, depth, random);
                } catch (const std::runtime_error& error) {
                    throw std::runtime_error(what + ": " + error.what());
                }
                session.clear();
                auto begin = Clock::now();
                session.decode(prompt.data(), static_cast<int>(prompt.size()), false);
                prompt_seconds += seconds_since(begin);
                prompt_tokens += static_cast<int64_t>(prompt.size());
                begin = Clock::now();
                int written = 0;
                const std::string answer =
                    session.generate(trial.answer_tokens, plan.wording == Wording::kPlain, &written);
                answer_seconds += seconds_since(begin);
                // The first token of an answer comes from the prompt's logits.
                answer_tokens += std::max(0, written - 1);
                nlohmann::json record = {
                    {"expected", trial.expected}, {"answer", answer}, {"found", share_found(answer, trial.expected)}};
                if (trial.plants.size() == 1) record["depth"] = depth;
                trials.push_back(std::move(record));
                progress(what, length);
            }
            rows.push_back({{"task", task},
                            {"length", length},
                            {"trials", std::move(trials)},
                            {"prompt_tokens", prompt_tokens},
                            {"prompt_seconds", prompt_seconds},
                            {"answer_tokens", answer_tokens},
                            {"answer_seconds", answer_seconds}});
        }
    }
    return rows;
}

}  // namespace atlas::eval
