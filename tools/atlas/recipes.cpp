#include "recipes.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "child.h"
#include "launch.h"

namespace atlas::tool {
namespace {

using Arguments = std::vector<std::string>;
using Json = nlohmann::json;

constexpr int64_t kLeastContext = 4096;
constexpr int kBenchSeconds = 3600;

bool has(const Arguments& arguments, std::initializer_list<const char*> names) {
    return std::any_of(arguments.begin(), arguments.end(), [&](const std::string& argument) {
        return std::any_of(names.begin(), names.end(), [&](const char* name) {
            return argument == name || argument.starts_with(std::string(name) + "=");
        });
    });
}

/** The program with the model and a context that fits; what the user says comes first. */
Recipe recipe(const char* word, const char* program, const Arguments& arguments) {
    Recipe made;
    if (arguments.empty() || arguments.front().starts_with("-")) {
        made.error = std::string("atlas ") + word + " MODEL [arguments of " + program + "]: no model is given";
        return made;
    }
    ModelFacts model;
    if (made.error = read_model(arguments.front(), &model); !made.error.empty()) return made;
    made.arguments = {program, "-m", arguments.front()};
    const Arguments rest(arguments.begin() + 1, arguments.end());
    if (!has(rest, {"-c", "--ctx-size"}) && model.context > 0) {
        const int64_t context = fitting_context(model, free_memory());
        made.arguments.insert(made.arguments.end(), {"-c", std::to_string(context)});
        made.notes.push_back("a context of " + std::to_string(context) + " tokens, of " +
                             std::to_string(model.context) +
                             " that the model was trained for: its KV cache takes up to " +
                             size_text(static_cast<uint64_t>(context) * model.kv_bytes_per_token));
    }
    made.arguments.insert(made.arguments.end(), rest.begin(), rest.end());
    return made;
}

/** Tokens per second by the name of the test, in order; the error otherwise. */
std::string speeds_of(const ChildResult& result, std::vector<std::pair<std::string, double>>* speeds) {
    if (!result.error.empty()) return result.error;
    if (result.status != 0)
        return "llama-bench ended with " + (result.signal != 0 ? "signal " + std::to_string(result.signal)
                                                               : "status " + std::to_string(result.status));
    // Whatever comes before the list is no part of it.
    const size_t begin = result.output.find("[\n");
    const Json rows =
        Json::parse(begin == std::string::npos ? result.output : result.output.substr(begin), nullptr, false);
    if (!rows.is_array() || rows.empty()) return "llama-bench printed no results";
    for (const Json& row : rows) {
        const int64_t prompt = row.value("n_prompt", int64_t{0});
        const int64_t written = row.value("n_gen", int64_t{0});
        const int64_t depth = row.value("n_depth", int64_t{0});
        std::string name = prompt > 0 ? "prompt of " + std::to_string(prompt) : "";
        if (written > 0) name += (name.empty() ? "" : " and ") + std::string("writing ") + std::to_string(written);
        if (depth > 0) name += " behind " + std::to_string(depth);
        speeds->emplace_back(name, row.value("avg_ts", 0.0));
    }
    return {};
}

}  // namespace

int64_t fitting_context(const ModelFacts& model, uint64_t free_bytes) {
    const int64_t most = model.context;
    if (free_bytes == 0 || model.kv_bytes_per_token == 0) return std::min(most, kLeastContext);
    const uint64_t left = free_bytes / 2 > model.bytes ? free_bytes / 2 - model.bytes : 0;
    const auto tokens = static_cast<int64_t>(left / model.kv_bytes_per_token / 1024 * 1024);
    return std::min(most, std::max(tokens, kLeastContext));
}

Recipe recipe_for_run(const Arguments& arguments) { return recipe("run", "llama-cli", arguments); }

Recipe recipe_for_serve(const Arguments& arguments) {
    Recipe made = recipe("serve", "llama-server", arguments);
    if (!made.error.empty()) return made;
    if (!has(arguments, {"--host"}))
        made.notes.emplace_back("on this machine alone; --host 0.0.0.0 opens it to others");
    if (!has(arguments, {"--atlas-metrics"}))
        made.notes.emplace_back("--atlas-metrics 127.0.0.1:9464 lets Prometheus read what Atlas does");
    if (!has(arguments, {"--atlas-mode", "--atlas-level"}))
        made.notes.emplace_back("attention is exact; --atlas-level 1 reads a part of long contexts");
    return made;
}

int bench(const Arguments& arguments, const std::string& library) {
    const auto fail = [](const std::string& text) {
        std::fprintf(stderr, "atlas: %s\n", text.c_str());
        return 1;
    };
    if (arguments.empty() || arguments.front().starts_with("-"))
        return fail("atlas bench MODEL [arguments of llama-bench]: no model is given");
    ModelFacts model;
    if (const std::string error = read_model(arguments.front(), &model); !error.empty()) return fail(error);
    Arguments all = {"llama-bench", "-m", arguments.front(), "-o", "json"};
    if (!has(arguments, {"-p", "--n-prompt", "-pg"})) all.insert(all.end(), {"-p", "512"});
    if (!has(arguments, {"-n", "--n-gen", "-pg"})) all.insert(all.end(), {"-n", "64"});
    if (!has(arguments, {"-r", "--repetitions"})) all.insert(all.end(), {"-r", "3"});
    all.insert(all.end(), arguments.begin() + 1, arguments.end());
    const Launch launch = plan_launch(all, library);
    if (!launch.error.empty()) return fail(launch.error);
    if (find_program("llama-bench").empty()) return fail("llama-bench is not in PATH");
    std::vector<std::pair<std::string, const char*>> with;
    for (const auto& [name, value] : launch.environment) with.emplace_back(name, value.c_str());
    std::vector<std::pair<std::string, double>> without_atlas, with_atlas;
    std::fprintf(stderr, "llama.cpp alone …\n");
    const ChildResult alone = run_program(launch.command, {{"GGML_BACKEND_PATH", nullptr}}, false, kBenchSeconds);
    if (const std::string error = speeds_of(alone, &without_atlas); !error.empty())
        return fail("without Atlas: " + error);
    std::fprintf(stderr, "with Atlas …\n");
    const ChildResult ours = run_program(launch.command, with, false, kBenchSeconds);
    if (const std::string error = speeds_of(ours, &with_atlas); !error.empty()) return fail("with Atlas: " + error);
    std::printf("%-34s %12s %12s %8s\n", model.name.empty() ? "tokens per second" : model.name.substr(0, 34).c_str(),
                "llama.cpp", "with Atlas", "ratio");
    for (size_t i = 0; i < std::min(without_atlas.size(), with_atlas.size()); ++i) {
        const double before = without_atlas[i].second;
        const double after = with_atlas[i].second;
        std::printf("%-34s %12.1f %12.1f %7.2fx\n", without_atlas[i].first.c_str(), before, after,
                    before > 0 ? after / before : 0.0);
    }
    return 0;
}

}  // namespace atlas::tool
