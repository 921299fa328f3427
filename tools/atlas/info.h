#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace atlas::tool {

/** What the plug-in says of itself, loaded in a child as the host would: "loads", "error", "backend_api", "kernels", "cuda", "devices", "attention". */
nlohmann::ordered_json plugin_facts(const std::string& library);

/** What a model's file says, what its KV cache takes, and what Atlas knows of its architecture. The exit status. */
int print_model_info(const std::string& model, const std::string& library, bool json);

/** Loads the plug-in in a child process as the host would, and prints what came of it. Returns the exit status. */
int print_info(const std::string& library, bool json);

}  // namespace atlas::tool
