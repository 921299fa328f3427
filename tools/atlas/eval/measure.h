#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "eval/plan.h"
#include "eval/session.h"

namespace atlas::eval {

/** Called now and then with what is being done and the tokens finished since the last call. */
using Progress = std::function<void(const std::string& what, int tokens)>;

/** Tokens of all documents together: the length of a progress bar. */
int64_t work_of(const Plan& plan);

/**
 * All tasks at all lengths. Result: [{task, length, trials: [{document, depth, place, question, expected, answer, found}], prompt_tokens,
 * prompt_seconds, answer_tokens, answer_seconds}]: a trial is one question about document 0, 1, …, `place` the percent of the document
 * before the fact that answers it (where one does), `found` the share of the expected strings.
 */
nlohmann::json measure_retrieval(Session& session, const Plan& plan, const std::string& text, const Progress& progress);

/**
 * Perplexity of documents at even distances in the text, each read in one go, with the sum of losses by position (powers of two from 256).
 * Every (tokens / kl_positions)-th position's log-probabilities are written to `base` if `write_base`, else compared with what is there
 * (neither if `base` is empty): mean and 99th percentile of KL(base ‖ this) in nats, and how often both think the same token the likeliest.
 */
nlohmann::json measure_perplexity(Session& session, const Plan& plan, const std::string& text, const std::string& base,
                                  bool write_base, const Progress& progress);

}  // namespace atlas::eval
