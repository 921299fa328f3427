#include "eval/plan.h"

#include <algorithm>
#include <sstream>

#include "eval/kinds.h"

namespace atlas::eval {

bool Mode::is_exact() const {
    return std::all_of(environment.begin(), environment.end(), [](const auto& variable) {
        return variable.first != "ATLAS_MODE" || variable.second == "exact";
    });
}

std::string parse_mode(const std::string& text, Mode* out) {
    const size_t at = text.find('@');
    const std::string asking = text.substr(0, at);
    const size_t colon = asking.find(':');
    const std::string kind = asking.substr(0, colon);
    Mode mode{text, kind != "host", {}, {}};
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
        std::istringstream parts(asking.substr(colon + 1));
        for (std::string part; std::getline(parts, part, '+');) {
            const size_t equals = part.find('=');
            if (!part.starts_with("ATLAS_") || equals == std::string::npos)
                return text + ": '" + part + "' is not ATLAS_NAME=VALUE";
            mode.environment.emplace_back(part.substr(0, equals), part.substr(equals + 1));
        }
    }
    if (at != std::string::npos) {
        mode.reader = text.substr(at + 1);
        Mode reader;
        if (const std::string problem = parse_mode(mode.reader, &reader); !problem.empty()) return problem;
        if (!reader.reader.empty()) return text + ": only one mode can read for another";
    }
    *out = std::move(mode);
    return {};
}

const std::vector<std::string>& task_names() {
    static const std::vector<std::string> names = [] {
        std::vector<std::string> all = {
            "single", "multi-key", "multi-value", "multi-query", "variable-tracking", "common-words", "frequent-words"};
        all.insert(all.end(), kind_names().begin(), kind_names().end());
        return all;
    }();
    return names;
}

std::vector<NamedText> perplexity_texts(const Plan& plan) {
    if (plan.perplexity_texts.empty()) return {{"text", plan.texts}};
    return plan.perplexity_texts;
}

}  // namespace atlas::eval
