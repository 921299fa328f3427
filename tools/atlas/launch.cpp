#include "launch.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "settings.h"

namespace atlas::tool {
namespace {

using Arguments = std::vector<std::string>;

bool has_any(const Arguments& arguments, std::initializer_list<std::string_view> names) {
    return std::any_of(arguments.begin(), arguments.end(), [&](const std::string& argument) {
        return std::any_of(names.begin(), names.end(), [&](std::string_view name) {
            return argument == name || argument.starts_with(std::string(name) + "=");
        });
    });
}

bool is_set(const Launch& launch, const char* name) {
    const char* given = std::getenv(name);
    return (given && *given) || std::any_of(launch.environment.begin(), launch.environment.end(),
                                            [&](const auto& one) { return one.first == name; });
}

/** What a program does not do by itself; nothing is added where the user has said something about it. */
void add_needed_flags(Arguments* command, bool accel, bool streams) {
    const std::string name = std::filesystem::path(command->front()).filename().string();
    if (!name.starts_with("llama-")) return;
    // These take neither a context nor attention.
    for (const char* without :
         {"llama-quantize", "llama-gguf", "llama-gguf-split", "llama-gguf-hash", "llama-tokenize", "llama-gen-docs"}) {
        if (name == without) return;
    }
    if (name == "llama-simple" || name == "llama-simple-chat") {
        if (!accel && !has_any(*command, {"-ngl"})) command->insert(command->begin() + 1, {"-ngl", "99"});
        return;
    }
    // In owner mode the programs turn flash attention on by themselves; with KV on the CPU they keep their default.
    if (!has_any(*command, {"-fa", "--flash-attn"})) {
        if (name == "llama-bench") {
            command->insert(command->end(), {"-fa", "1"});
        } else if (accel) {
            command->insert(command->end(), {"-fa", "on"});
        }
    }
    // An empty run would read all that memory has no room for once more.
    const bool warms_up =
        name == "llama-server" || name == "llama-cli" || name == "llama-completion" || name == "llama-bench";
    if (streams && warms_up && !has_any(*command, {"--warmup", "--no-warmup"})) command->emplace_back("--no-warmup");
}

/** What -m or --model names, or the variable that llama.cpp's programs read; empty if nothing does. */
std::string model_of(const Arguments& command) {
    for (size_t i = 1; i < command.size(); ++i) {
        for (const std::string name : {"-m", "--model"}) {
            if (command[i] == name && i + 1 < command.size()) return command[i + 1];
            if (command[i].starts_with(name + "=")) return command[i].substr(name.size() + 1);
        }
    }
    const char* given = std::getenv("LLAMA_ARG_MODEL");
    return given ? given : "";
}

/** Memories that belong to the model are started from without being asked for; the library checks whose they are. */
void add_side_car(Launch* launch) {
    const std::string model = model_of(launch->command);
    if (model.empty()) return;
    if (!is_set(*launch, "ATLAS_SIDE_CAR")) {
        const std::string found = side_car_beside(model);
        if (found.empty()) return;
        launch->environment.emplace_back("ATLAS_SIDE_CAR", found);
    }
    if (!is_set(*launch, "ATLAS_MODEL")) launch->environment.emplace_back("ATLAS_MODEL", model);
}

constexpr const char* kEnable = "atlas-enable";
constexpr LauncherSwitch kSwitches[] = {
    {kEnable, "0, 1; alone: 1", "0: the program as it is, without Atlas", nullptr},
    {"atlas-memory-pool", "bytes, or 512M, 8G", "another name of --atlas-kv-ram", "ATLAS_KV_RAM"},
};

const LauncherSwitch* find_switch(std::string_view flag) {
    const auto found = std::find_if(std::begin(kSwitches), std::end(kSwitches),
                                    [&](const LauncherSwitch& one) { return flag == one.flag; });
    return found == std::end(kSwitches) ? nullptr : found;
}

/** The error, "" if there is none. */
std::string take_switch(const LauncherSwitch& own, const std::string& value, Launch* launch) {
    if (own.variable) {
        launch->environment.emplace_back(own.variable, value);
    } else {
        if (value != "0" && value != "1") return "--atlas-enable " + value + ": allowed is 0 or 1";
        launch->plain = value == "0";
    }
    return {};
}

/** Whether the user's GGML_BACKEND_PATH may give way to `library`; else the error. */
std::string choose_plugin(const std::string& library, std::vector<std::string>* notes) {
    namespace fs = std::filesystem;
    const char* given = std::getenv("GGML_BACKEND_PATH");
    if (!given || !*given) return {};
    std::error_code error;
    if (fs::equivalent(given, library, error)) return {};
    const std::string variable = std::string("GGML_BACKEND_PATH=") + given;
    if (!fs::exists(given, error)) {
        notes->push_back(variable + " is not there, taking " + library);
        return {};
    }
    if (fs::path(given).filename().string().starts_with("libggml-atlas")) {
        notes->push_back(variable + " is another copy of Atlas, taking " + library +
                         " (ATLAS_LIBRARY chooses the copy)");
        return {};
    }
    return variable +
           " names another plug-in, and llama.cpp loads only one from there: unset it to run the program on "
           "Atlas, or start the program without atlas";
}

}  // namespace

std::string side_car_beside(const std::string& model) {
    constexpr std::string_view kEnd = ".gguf";
    if (!model.ends_with(kEnd)) return {};
    std::string stem = model.substr(0, model.size() - kEnd.size());
    std::error_code error;
    std::vector<std::string> stems = {stem};
    if (const size_t part = stem.rfind("-00001-of-"); part != std::string::npos) stems.push_back(stem.substr(0, part));
    for (const std::string& one : stems) {
        if (std::filesystem::is_regular_file(one + ".atlas.gguf", error)) return one + ".atlas.gguf";
    }
    return {};
}

std::span<const LauncherSwitch> launcher_switches() { return kSwitches; }

Launch plan_launch(const Arguments& arguments, const std::string& library) {
    Launch launch;
    bool accel = false;
    bool own_arguments_only = false;
    for (size_t i = 0; i < arguments.size(); ++i) {
        const std::string& argument = arguments[i];
        if (argument == "--" && !own_arguments_only) {
            own_arguments_only = true;
            if (launch.command.empty()) continue;
        }
        if (!own_arguments_only && launch.command.empty() && argument.starts_with("-") &&
            !argument.starts_with("--atlas-")) {
            launch.error = argument + ": no switch of atlas, and no program was named before it";
            return launch;
        }
        if (own_arguments_only || !argument.starts_with("--atlas-")) {
            launch.command.push_back(argument);
            continue;
        }
        const size_t equals = argument.find('=');
        const std::string flag = argument.substr(2, equals == std::string::npos ? equals : equals - 2);
        if (const LauncherSwitch* own = find_switch(flag)) {
            std::string value;
            if (equals != std::string::npos) {
                value = argument.substr(equals + 1);
            } else if (flag == kEnable) {
                const bool is_next = i + 1 < arguments.size() && (arguments[i + 1] == "0" || arguments[i + 1] == "1");
                value = is_next ? arguments[++i] : "1";
            } else if (i + 1 < arguments.size()) {
                value = arguments[++i];
            } else {
                launch.error = "--" + flag + " needs a value (" + own->allowed + "): " + own->help;
                return launch;
            }
            if (launch.error = take_switch(*own, value, &launch); !launch.error.empty()) return launch;
            continue;
        }
        const Setting* setting = find_setting(flag);
        if (!setting) {
            launch.error = "--" + flag + ": no such switch; there are " + setting_names() +
                           " and more for experts (atlas --help-all)";
            return launch;
        }
        std::string value;
        if (equals != std::string::npos) {
            value = argument.substr(equals + 1);
        } else if (setting->implies_one) {
            // As help has it ("0, 1", "a file, 0 or 1"): no program takes a bare 0 or 1 there.
            const bool is_next = i + 1 < arguments.size() && (arguments[i + 1] == "0" || arguments[i + 1] == "1");
            value = is_next ? arguments[++i] : "1";
        } else if (i + 1 < arguments.size()) {
            value = arguments[++i];
        } else {
            launch.error = "--" + flag + " needs a value (" + setting->allowed + "): " + setting->help;
            return launch;
        }
        accel |= flag == "atlas-device" && value == "accel";
        launch.environment.emplace_back(setting->variable, value);
    }
    if (launch.command.empty()) {
        launch.error = "no program given; for example: atlas llama-server -m model.gguf";
        return launch;
    }
    if (launch.plain) {
        launch.environment.clear();
        return launch;
    }
    if (launch.error = choose_plugin(library, &launch.notes); !launch.error.empty()) return launch;
    launch.environment.emplace_back("GGML_BACKEND_PATH", library);
    add_side_car(&launch);
    add_needed_flags(&launch.command, accel, is_set(launch, "ATLAS_WEIGHTS_RAM") || is_set(launch, "ATLAS_RAM"));
    return launch;
}

std::string execute(const Launch& launch) {
    const char* given = std::getenv("GGML_BACKEND_PATH");
    if (launch.plain && given && std::filesystem::path(given).filename().string().starts_with("libggml-atlas"))
        unsetenv("GGML_BACKEND_PATH");
    for (const auto& [name, value] : launch.environment) setenv(name.c_str(), value.c_str(), 1);
    std::vector<char*> argv;
    argv.reserve(launch.command.size() + 1);
    for (const std::string& argument : launch.command) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    execvp(argv[0], argv.data());
    if (errno == ENOENT)
        return launch.command.front() + ": no such program; llama.cpp's tools have to be installed and on the PATH";
    return launch.command.front() + ": " + std::strerror(errno);
}

}  // namespace atlas::tool
