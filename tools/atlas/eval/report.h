#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "eval/plan.h"

namespace atlas::eval {

/** Adds to each retrieval row of `result` (of run_mode) its hits, accuracy, 95 % interval, mean share found, mean −ln of the answers, accuracy by
 *  depth, documents and those of which every question was answered. */
void summarize(nlohmann::json* result);

/** Adds to the retrieval rows of all modes but the first which trials only the first answered and which only this one (McNemar's counts). */
void compare(nlohmann::json* report);

/** `report`: {plan, modes: [{name, result}]}. Tables in Markdown, one column per mode. */
std::string tables(const nlohmann::json& report);

/** The same as a picture (SVG): accuracy by length per task, loss by position, reading and writing speed by length. */
std::string picture(const nlohmann::json& report);

}  // namespace atlas::eval
