#pragma once

#include <string>
#include <vector>

#include "eval/plan.h"
#include "eval/random.h"

namespace atlas::eval {

struct Question {
    std::string text;                   ///< behind the document
    std::string opening;                ///< begins the answer
    std::vector<std::string> expected;  ///< all of them have to be in the answer; "3|three": one of these
    std::string answer{};               ///< what follows the opening where there is one right way to put it, else empty
    std::string task{};                 ///< the part of the trial's task that asks
    int answer_tokens = 16;             ///< room for its answer
};

/** One document and what is asked about it: each question alone, as if there were no other. */
struct Trial {
    std::vector<std::string> plants;  ///< sentences to put into the text, in this order; each begins with a space
    std::vector<std::string> words;   ///< not empty: the document is these words, as often as it takes, instead of text
    std::vector<Question> questions;  ///< never empty; no two ask for the same plant
    int answer_tokens = 16;           ///< the most that a question needs
};

/** "codes+qa" is codes and qa behind one document. */
std::vector<std::string> parts_of(const std::string& task);

/**
 * A trial of one or several tasks of task_names(): those after RULER (arXiv 2404.06654) are needles (single, multi-key, multi-value,
 * multi-query), variable tracking of two hops over two chains, the commonest words, frequent coded words; the others are kinds of facts
 * (kinds.h). As many of `plan.questions` of each as there are facts for; the document and the first question do not depend on how many.
 * Throws std::invalid_argument for an unknown task, and where a list of words is to share a document.
 */
Trial make_trial(const std::string& task, const Plan& plan, Random& random);

}  // namespace atlas::eval
