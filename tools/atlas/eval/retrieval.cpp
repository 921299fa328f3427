#include <algorithm>
#include <cctype>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <map>
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

/** True one token after everything expected is in the answer: what follows cannot make it wrong. */
class Enough {
public:
    explicit Enough(const std::vector<std::string>& expected) : expected_(expected) {}

    bool operator()(const std::string& text) {
        const bool before = found_;
        found_ = share_found(text, expected_) == 1;
        return found_ && (before || std::isalnum(static_cast<unsigned char>(text.back())) == 0);
    }

private:
    const std::vector<std::string>& expected_;
    bool found_ = false;
};

/** Asks the questions of one document. */
class Interview {
public:
    Interview(Session& session, Reader& reader, const Plan& plan, const Prompt& prompt)
        : session_(session), reader_(reader), plan_(plan), prompt_(prompt) {}

    void ask(const Question& question, const Tokens& tokens, nlohmann::json record, Row* row) {
        approach(tokens, row);
        const int vocabulary = session_.vocabulary();
        const float* logits = session_.logits(-1);
        const auto first = static_cast<llama_token>(std::max_element(logits, logits + vocabulary) - logits);
        if (!question.answer.empty() && (reader_.keeps() || session_.can_go_back())) {
            record["nll"] = nll(session_.tokenize(question.answer));
            return_to(tokens);
        }
        const auto begin = Clock::now();
        int written = 0;
        const bool one_line = plan_.wording == Wording::kPlain;
        const std::string answer =
            session_.generate(question.answer_tokens, one_line, &written, first, Enough(question.expected));
        row->answer_seconds += seconds_since(begin);
        // The first token of an answer comes from the question's logits.
        row->answer_tokens += std::max(0, written - 1);
        record["question"] = question.text;
        record["expected"] = question.expected;
        record["answer"] = answer;
        record["found"] = share_found(answer, question.expected);
        row->trials.push_back(std::move(record));
        asked_ = true;
    }

private:
    /** The session holds the document and the question. */
    void approach(const Tokens& question, Row* row) {
        const auto length = static_cast<int64_t>(prompt_.document.size());
        if (asked_ && reader_.back()) {
            // Not part of the reading speed: a few tokens behind a long text are neither reading nor writing.
            session_.decode(question.data(), static_cast<int>(question.size()), false);
        } else if (reader_.keeps()) {
            const double seconds = reader_.read(prompt_.document);
            row->prompt_seconds += seconds;
            row->prompt_tokens += seconds > 0 ? length : 0;
            session_.decode(question.data(), static_cast<int>(question.size()), false);
        } else {
            // Read as if it were the only one: in the same batches as the end of the document.
            Tokens all = prompt_.document;
            all.insert(all.end(), question.begin(), question.end());
            row->prompt_seconds += reader_.read(all);
            row->prompt_tokens += static_cast<int64_t>(all.size());
            reader_.shorten(prompt_.document.size());
        }
    }

    /** −ln of the probability of the tokens behind the question; they stay in the session. */
    double nll(const Tokens& answer) {
        const int vocabulary = session_.vocabulary();
        const float* logits = session_.logits(-1);
        double sum = log_sum_exp(logits, vocabulary) - logits[answer[0]];
        const int more = static_cast<int>(answer.size()) - 1;
        if (more > 0) session_.decode(answer.data(), more, true);
        for (int i = 0; i < more; ++i) {
            logits = session_.logits(i);
            sum += log_sum_exp(logits, vocabulary) - logits[answer[static_cast<size_t>(i) + 1]];
        }
        return sum;
    }

    void return_to(const Tokens& question) {
        if (session_.keep(static_cast<int>(prompt_.document.size() + question.size()))) return;
        reader_.back();
        session_.decode(question.data(), static_cast<int>(question.size()), false);
    }

    Session& session_;
    Reader& reader_;
    const Plan& plan_;
    const Prompt& prompt_;
    bool asked_ = false;
};

/** Calls use(task, sample, depth, trial, prompt, length) for every document. */
template <typename Use>
void each_document(const Session& session, const Plan& plan, const std::string& text, Use use) {
    const Haystack haystack(session, plan, split_sentences(text));
    for (const std::string& task : plan.tasks) {
        for (const int length : plan.lengths) {
            const std::string what = task + " " + std::to_string(length);
            Random random(plan.seed, what);
            for (int sample = 0; sample < plan.samples; ++sample) {
                const int depth = plan.depths[static_cast<size_t>(sample) % plan.depths.size()];
                const Trial trial = make_trial(task, plan, random);
                Prompt prompt;
                try {
                    prompt = haystack.prompt(trial, length, depth, random);
                } catch (const std::runtime_error& error) {
                    throw std::runtime_error(what + ": " + error.what());
                }
                use(task, sample, depth, trial, prompt, length);
            }
        }
    }
}

}  // namespace

int64_t work_of(const Plan& plan) {
    int64_t tokens = static_cast<int64_t>(plan.perplexity_context) * plan.perplexity_documents *
                     static_cast<int64_t>(perplexity_texts(plan).size());
    for (const int length : plan.lengths)
        tokens += static_cast<int64_t>(length) * plan.samples * static_cast<int64_t>(plan.tasks.size());
    return tokens;
}

nlohmann::json measure_retrieval(Session& session, Reader& reader, const Plan& plan, const std::string& text,
                                 const Progress& progress) {
    nlohmann::json rows = nlohmann::json::array();
    std::vector<std::pair<std::string, Row>> parts;
    const auto use = [&](const std::string& task, int sample, int depth, const Trial& trial, const Prompt& prompt,
                         int length) {
        if (sample == 0) {
            parts.clear();
            for (const std::string& part : parts_of(task)) parts.emplace_back(part, Row());
        }
        Interview interview(session, reader, plan, prompt);
        for (size_t i = 0; i < trial.questions.size(); ++i) {
            const Question& question = trial.questions[i];
            nlohmann::json record = {{"document", sample}};
            if (trial.plants.size() == 1) record["depth"] = depth;
            if (prompt.places[i] >= 0) record["place"] = prompt.places[i];
            const auto row =
                std::find_if(parts.begin(), parts.end(), [&](const auto& part) { return part.first == question.task; });
            interview.ask(question, prompt.questions[i], std::move(record), &row->second);
        }
        progress(task.substr(0, 20) + " " + std::to_string(length), length);
        if (sample + 1 < plan.samples) return;
        for (auto& [part, row] : parts) {
            rows.push_back({{"task", part},
                            {"length", length},
                            {"trials", std::move(row.trials)},
                            {"prompt_tokens", row.prompt_tokens},
                            {"prompt_seconds", row.prompt_seconds},
                            {"answer_tokens", row.answer_tokens},
                            {"answer_seconds", row.answer_seconds}});
        }
    };
    each_document(session, plan, text, use);
    return rows;
}

nlohmann::json read_documents(Session& session, Reader& reader, const Plan& plan, const std::string& text,
                              const Progress& progress) {
    int documents = 0;
    int64_t tokens = 0;
    double seconds = 0;
    const auto use = [&](const Tokens& document, const std::string& what) {
        std::error_code error;
        if (!std::filesystem::exists(reader.file_of(document), error)) {
            seconds += reader.read(document);
            tokens += static_cast<int64_t>(document.size());
            ++documents;
        }
        progress(what, static_cast<int>(document.size()));
    };
    if (!plan.tasks.empty()) {
        each_document(session, plan, text,
                      [&](const std::string&, int, int, const Trial&, const Prompt& prompt, int length) {
                          use(prompt.document, "reading " + std::to_string(length));
                      });
    }
    each_beginning(session, plan, [&](const Tokens& document) { use(document, "reading for perplexity"); });
    return {{"documents", documents}, {"tokens", tokens}, {"seconds", seconds}};
}

}  // namespace atlas::eval
