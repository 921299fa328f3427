#pragma once

#include <ggml-backend.h>

#include <nlohmann/json.hpp>

namespace atlas::tool {

/**
 * Whether what the options ask for takes part: a small attention over more keys than ATLAS_THRESHOLD, in a KV cache on Atlas's device. "asked": what was,
 * "" if all is exact; else "takes_part", "keys" that were tried, and "absent": the statistics' reasons why not. Runs in the process that has the plug-in.
 */
nlohmann::ordered_json try_attention(ggml_backend_reg_t registry);

}  // namespace atlas::tool
