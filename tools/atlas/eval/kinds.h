#pragma once

#include <string>
#include <vector>

#include "eval/tasks.h"

namespace atlas::eval {

/**
 * Kinds of facts in several wordings each, of which every fact and every question draws its own: codes, names, sentences, two-hop,
 * counting, identifiers, qa. They do not depend on the plan's wording.
 */
const std::vector<std::string>& kind_names();

/** A trial of a kind: 1 + plan.distractors facts (half of that for two-hop, a third for counting), as many of plan.questions as there are
 *  facts. Throws std::invalid_argument for an unknown kind. */
Trial make_kind(const std::string& kind, const Plan& plan, Random& random);

}  // namespace atlas::eval
