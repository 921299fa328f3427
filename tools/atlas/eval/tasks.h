#pragma once

#include <string>
#include <vector>

#include "eval/plan.h"
#include "eval/random.h"

namespace atlas::eval {

struct Question {
    std::string text;                   ///< behind the document
    std::string opening;                ///< begins the answer
    std::vector<std::string> expected;  ///< all of them have to be in the answer
};

/** One document and what is asked about it: each question alone, as if there were no other. */
struct Trial {
    std::vector<std::string> plants;  ///< sentences to put into the text, in this order; each begins with a space
    std::vector<std::string> words;   ///< not empty: the document is these words, as often as it takes, instead of text
    std::vector<Question> questions;  ///< never empty; no two ask for the same plant
    int answer_tokens = 16;           ///< room for an answer
};

/**
 * A trial of a task of task_names(), after RULER (arXiv 2404.06654): needles (single, multi-key, multi-value, multi-query), variable tracking
 * of two hops over two chains, the commonest words, frequent coded words. As many of `plan.questions` as there are facts for; the document
 * and the first question do not depend on how many. Throws std::invalid_argument for an unknown task.
 */
Trial make_trial(const std::string& task, const Plan& plan, Random& random);

}  // namespace atlas::eval
