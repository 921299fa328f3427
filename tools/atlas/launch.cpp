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

/** What a program does not do by itself; nothing is added where the user has said something about it. */
void add_needed_flags(Arguments* command, bool accel) {
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
}

}  // namespace

Launch plan_launch(const Arguments& arguments, const std::string& library) {
    Launch launch;
    bool accel = false;
    bool own_arguments_only = false;
    for (size_t i = 0; i < arguments.size(); ++i) {
        const std::string& argument = arguments[i];
        own_arguments_only |= argument == "--";
        if (own_arguments_only || !argument.starts_with("--atlas-")) {
            launch.command.push_back(argument);
            continue;
        }
        const size_t equals = argument.find('=');
        const std::string flag = argument.substr(2, equals == std::string::npos ? equals : equals - 2);
        const Setting* setting = find_setting(flag);
        if (!setting) {
            launch.error = "--" + flag + ": no such switch; there are " + setting_names();
            return launch;
        }
        std::string value;
        if (equals != std::string::npos) {
            value = argument.substr(equals + 1);
        } else if (setting->implied) {
            value = setting->implied;
        } else if (i + 1 < arguments.size()) {
            value = arguments[++i];
        } else {
            launch.error = "--" + flag + " needs a value: " + setting->help;
            return launch;
        }
        accel |= flag == "atlas-device" && value == "accel";
        launch.environment.emplace_back(setting->variable, value);
    }
    if (launch.command.empty()) {
        launch.error = "no program given; for example: atlas llama-server -m model.gguf";
        return launch;
    }
    launch.environment.emplace_back("GGML_BACKEND_PATH", library);
    add_needed_flags(&launch.command, accel);
    return launch;
}

std::string execute(const Launch& launch) {
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
