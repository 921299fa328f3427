#include "eval/plan.h"

#include <algorithm>
#include <sstream>

namespace atlas::eval {

std::string parse_mode(const std::string& text, Mode* out) {
    const size_t colon = text.find(':');
    const std::string kind = text.substr(0, colon);
    Mode mode{text, kind != "host", {}};
    const bool memory = kind == "memory";
    if (kind != "host" && kind != "exact" && kind != "window" && kind != "sparse" && !memory)
        return text + ": no such mode; there are host (without Atlas), exact, window, sparse, memory (sparse with it)";
    if (mode.with_atlas) {
        mode.environment.emplace_back("ATLAS_MODE", memory ? "sparse" : kind);
        // Said for each mode, so that a variable left in the user's shell does not turn `sparse` into `memory`.
        mode.environment.emplace_back("ATLAS_MEMORY", memory ? "1" : "0");
    }
    if (colon != std::string::npos) {
        if (!mode.with_atlas) return text + ": host takes no variables";
        std::istringstream parts(text.substr(colon + 1));
        for (std::string part; std::getline(parts, part, '+');) {
            const size_t equals = part.find('=');
            if (!part.starts_with("ATLAS_") || equals == std::string::npos)
                return text + ": '" + part + "' is not ATLAS_NAME=VALUE";
            mode.environment.emplace_back(part.substr(0, equals), part.substr(equals + 1));
        }
    }
    *out = std::move(mode);
    return {};
}

const std::vector<std::string>& task_names() {
    static const std::vector<std::string> names = {
        "single", "multi-key", "multi-value", "multi-query", "variable-tracking", "common-words", "frequent-words"};
    return names;
}

void to_json(nlohmann::json& json, const Plan& plan) {
    json = {{"model", plan.model},
            {"texts", plan.texts},
            {"tasks", plan.tasks},
            {"lengths", plan.lengths},
            {"depths", plan.depths},
            {"samples", plan.samples},
            {"distractors", plan.distractors},
            {"seed", plan.seed},
            {"wording", static_cast<int>(plan.wording)},
            {"perplexity_context", plan.perplexity_context},
            {"perplexity_documents", plan.perplexity_documents},
            {"kl_positions", plan.kl_positions},
            {"threads", plan.threads},
            {"cache_type_k", plan.cache_type_k},
            {"cache_type_v", plan.cache_type_v},
            {"beyond_training", plan.beyond_training},
            {"repeat_text", plan.repeat_text}};
}

void from_json(const nlohmann::json& json, Plan& plan) {
    json.at("model").get_to(plan.model);
    json.at("texts").get_to(plan.texts);
    json.at("tasks").get_to(plan.tasks);
    json.at("lengths").get_to(plan.lengths);
    json.at("depths").get_to(plan.depths);
    json.at("samples").get_to(plan.samples);
    json.at("distractors").get_to(plan.distractors);
    json.at("seed").get_to(plan.seed);
    plan.wording = static_cast<Wording>(json.at("wording").get<int>());
    json.at("perplexity_context").get_to(plan.perplexity_context);
    json.at("perplexity_documents").get_to(plan.perplexity_documents);
    json.at("kl_positions").get_to(plan.kl_positions);
    json.at("threads").get_to(plan.threads);
    json.at("cache_type_k").get_to(plan.cache_type_k);
    json.at("cache_type_v").get_to(plan.cache_type_v);
    json.at("beyond_training").get_to(plan.beyond_training);
    json.at("repeat_text").get_to(plan.repeat_text);
}

}  // namespace atlas::eval
