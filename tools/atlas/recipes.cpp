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
constexpr int64_t kPage = 64;  // tokens that the library keeps together
constexpr int kBenchSeconds = 3600;

bool has(const Arguments& arguments, std::initializer_list<const char*> names) {
    return std::any_of(arguments.begin(), arguments.end(), [&](const std::string& argument) {
        return std::any_of(names.begin(), names.end(), [&](const char* name) {
            return argument == name || argument.starts_with(std::string(name) + "=");
        });
    });
}

/** "512M" as the library reads it; 0 for what is no number, which the library will say. */
uint64_t bytes_of(const std::string& text) {
    char* end = nullptr;
    const uint64_t number = std::strtoull(text.c_str(), &end, 10);
    switch (*end) {
        case 'K':
        case 'k':
            return number << 10;
        case 'M':
        case 'm':
            return number << 20;
        case 'G':
        case 'g':
            return number << 30;
        default:
            return number;
    }
}

/** By Atlas's switches among the arguments, else by the environment. */
MemoryBounds bounds_of(const char* program, const Arguments& arguments) {
    Arguments all = {program};
    all.insert(all.end(), arguments.begin(), arguments.end());
    const Launch launch = plan_launch(all, {});
    const auto value = [&](const char* variable) {
        const char* given = std::getenv(variable);
        std::string text = given ? given : "";
        for (const auto& [name, set] : launch.environment) {
            if (name == variable) text = set;
        }
        return text;
    };
    return {bytes_of(value("ATLAS_RAM")), bytes_of(value("ATLAS_KV_RAM")), bytes_of(value("ATLAS_WEIGHTS_RAM")),
            !value("ATLAS_KV_DISK").empty()};
}

/** What bounds leave the KV cache, a tenth of which is for an index of its keys; UINT64_MAX: they do not say. */
uint64_t room_for_kv(const ModelFacts& model, const MemoryBounds& bounds) {
    uint64_t room = UINT64_MAX;
    if (bounds.disk) return room;
    if (bounds.kv_ram > 0) room = bounds.kv_ram;
    // The library has the KV cache take what weights can do without; a quarter leaves them enough to be worth it.
    if (bounds.ram > 0) {
        const uint64_t beside = bounds.ram > model.bytes ? bounds.ram - model.bytes : 0;
        room = std::min(room, std::max(beside, bounds.ram / 4));
    }
    return room == UINT64_MAX ? room : room / 10 * 9;
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
        const int64_t context = fitting_context(model, free_memory(), bounds_of(program, rest));
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

int64_t fitting_context(const ModelFacts& model, uint64_t free_bytes, const MemoryBounds& bounds) {
    const int64_t most = model.context;
    if (model.kv_bytes_per_token == 0) return std::min(most, kLeastContext);
    const auto tokens = [&](uint64_t bytes) {
        const auto fit = static_cast<int64_t>(bytes / model.kv_bytes_per_token);
        return fit >= 1024 ? fit / 1024 * 1024 : std::max<int64_t>(fit / kPage, 1) * kPage;
    };
    const uint64_t weights_ram = bounds.ram > 0 ? bounds.ram : bounds.weights_ram;
    const uint64_t weights = weights_ram > 0 ? std::min(weights_ram, model.bytes) : model.bytes;
    int64_t context = std::min(most, kLeastContext);
    if (bounds.disk && bounds.kv_ram + bounds.ram > 0) {
        context = most;
    } else if (free_bytes / 2 > weights) {
        context = std::min(most, std::max(tokens(free_bytes / 2 - weights), kLeastContext));
    }
    if (const uint64_t room = room_for_kv(model, bounds); room != UINT64_MAX) {
        // What the user bounds is the user's word: longer than what is free in half of memory too.
        context = std::min(most, tokens(room));
        if (free_bytes > weights) context = std::min(context, std::max(tokens(free_bytes - weights), kLeastContext));
    }
    return context;
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
