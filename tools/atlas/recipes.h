#pragma once

#include <string>
#include <vector>

#include "model_facts.h"

namespace atlas::tool {

/** Arguments for plan_launch() that a word of the command line stands for: `run MODEL …` and `serve MODEL …`. */
struct Recipe {
    std::vector<std::string> arguments;
    std::vector<std::string> notes;  ///< why it is set so, for people
    std::string error;
};

/** Chat in a terminal; `arguments` are MODEL and whatever llama-cli takes, which comes before what would be chosen. */
Recipe recipe_for_run(const std::vector<std::string>& arguments);

/** A server with as long a context as the model was trained for and memory holds (fitting_context). */
Recipe recipe_for_serve(const std::vector<std::string>& arguments);

/** What a user bounds memory by, in bytes; 0: not. */
struct MemoryBounds {
    uint64_t ram = 0;          ///< ATLAS_RAM
    uint64_t kv_ram = 0;       ///< ATLAS_KV_RAM
    uint64_t weights_ram = 0;  ///< ATLAS_WEIGHTS_RAM
    bool disk = false;         ///< ATLAS_KV_DISK: what the KV cache's bound has no room for goes there
};

/**
 * Tokens of context that fit, in thousands of 1024: into half of the free memory beside the weights, at least 4096 where the model has as many; and into
 * what `bounds` leave the KV cache, in steps of 64 where that is less than 1024.
 */
int64_t fitting_context(const ModelFacts& model, uint64_t free_bytes, const MemoryBounds& bounds = {});

/**
 * Times a model with llama-bench, without Atlas and with it in turn, and prints both and their ratio. `arguments` are MODEL and whatever llama-bench takes, and Atlas's switches. The exit
 * status.
 */
int bench(const std::vector<std::string>& arguments, const std::string& library);

}  // namespace atlas::tool
