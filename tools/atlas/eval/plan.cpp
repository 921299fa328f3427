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

}  // namespace atlas::eval
