#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "eval/plan.h"
#include "eval/reader.h"
#include "eval/session.h"

namespace atlas::eval {

/** Called now and then with what is being done and the tokens finished since the last call. */
using Progress = std::function<void(const std::string& what, int tokens)>;

/** Tokens of all documents together: the length of a progress bar. */
int64_t work_of(const Plan& plan);

/** ln Σ exp(logits), in double: at 256K entries a float sum would lose what KL divergences are made of. */
double log_sum_exp(const float* logits, int n);

/**
 * All tasks at all lengths. Result: [{task, length, trials: [{document, depth, place, question, expected, answer, found, nll}], prompt_tokens,
 * prompt_seconds, answer_tokens, answer_seconds}]: a trial is one question about document 0, 1, …, `place` the percent of the document
 * before the fact that answers it (where one does), `found` the share of the expected strings, `nll` −ln of the probability of the
 * answer (where there is one right way to put it). Tasks that share a document are rows of their own; its reading is counted once.
 */
nlohmann::json measure_retrieval(Session& session, Reader& reader, const Plan& plan, const std::string& text,
                                 const Progress& progress);

/**
 * Perplexity of documents at even distances in each text, each read in one go, with the sum of losses by position (powers of two from 256).
 * Every (tokens / kl_positions)-th position's log-probabilities are written to `base` if `write_base`, else compared with what is there
 * (neither if `base` is empty): mean and 99th percentile of KL(base ‖ this) in nats, and how often both think the same token the likeliest.
 * The same of each text in "texts". With plan.perplexity_tail only the end is scored, and the reader brings what is before it.
 */
nlohmann::json measure_perplexity(Session& session, Reader& reader, const Plan& plan, const std::string& base,
                                  bool write_base, const Progress& progress);

/** Calls use(tokens) for the unscored beginning of each document for perplexity, if there is one. */
void each_beginning(const Session& session, const Plan& plan, const std::function<void(const Tokens&)>& use);

/** Reads the documents that the reader's folder does not hold yet. Result: {documents, tokens, seconds} of those. */
nlohmann::json read_documents(Session& session, Reader& reader, const Plan& plan, const std::string& text,
                              const Progress& progress);

}  // namespace atlas::eval
