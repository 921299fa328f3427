#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "eval/plan.h"

namespace atlas::eval {

/**
 * Runs one mode, each phase (reading for later, perplexity, retrieval) in a process of its own: the library reads its variables once, and
 * a crash must not take the other modes along. `reader` reads the documents if plan.states names a folder. `progress(what, tokens)` is
 * called meanwhile. Result: what worker_main wrote, with "keys" per phase (keys.h), or {"error": text}. `base` is the file of the first
 * mode's distributions, made by the run with `write_base`; empty: none is wanted.
 */
nlohmann::json run_mode(const Plan& plan, const Mode& mode, const Mode& reader, const std::string& plugin,
                        const std::string& base, bool write_base,
                        const std::function<void(const std::string&, int)>& progress);

/** The process started by run_mode: request on standard input, one JSON object per line on descriptor 3. Returns the exit status. */
int worker_main();

}  // namespace atlas::eval
