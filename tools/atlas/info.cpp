#include "info.h"

#include <fcntl.h>
#include <ggml-backend.h>
#include <ggml.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "trial.h"

namespace atlas::tool {
namespace {

using Json = nlohmann::ordered_json;

Json describe_device(ggml_backend_dev_t device) {
    size_t free = 0;
    size_t total = 0;
    ggml_backend_dev_memory(device, &free, &total);
    return {{"name", ggml_backend_dev_name(device)},
            {"description", ggml_backend_dev_description(device)},
            {"memory_free", free},
            {"memory_total", total}};
}

/** Runs in the child: what the host would see. */
Json load_plugin(const std::string& library) {
    ggml_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    ggml_backend_load_all();
    Json result{{"loads", false}, {"devices", Json::array()}};
    ggml_backend_reg_t registry = ggml_backend_load(library.c_str());
    if (!registry) return result;
    result["loads"] = true;
    using Describe = const char* (*)();
    const auto text = [&](const char* name) -> Json {
        const auto describe = reinterpret_cast<Describe>(ggml_backend_reg_get_proc_address(registry, name));
        return describe ? Json(describe()) : Json(nullptr);
    };
    result["kernels"] = text("atlas_kernel_variant");
    result["backend_api"] = text("atlas_backend_api");
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i)
        result["devices"].push_back(describe_device(ggml_backend_dev_get(i)));
    result["attention"] = try_attention(registry);
    return result;
}

/** The child's result, or why there is none. A plug-in that crashes must not take this program along. */
Json load_in_child(const std::string& library) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return {{"loads", false}, {"error", "no pipe"}};
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
        unsetenv("GGML_BACKEND_PATH");
        const std::string text = load_plugin(library).dump();
        const bool written = write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size());
        _exit(written ? 0 : 1);
    }
    close(ends[1]);
    std::string text;
    char buffer[4096];
    for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(n));
    close(ends[0]);
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) < 0) return {{"loads", false}, {"error", "could not start a process"}};
    if (WIFSIGNALED(status))
        return {{"loads", false}, {"error", "loading ended with signal " + std::to_string(WTERMSIG(status))}};
    Json result = Json::parse(text, nullptr, false);
    return result.is_discarded() ? Json{{"loads", false}, {"error", "no result"}} : result;
}

/** What was asked for, and whether a trial did it. */
std::string describe_attention(const Json& attention) {
    const std::string asked = attention["asked"];
    if (asked.empty()) return "exact";
    const std::string keys = std::to_string(attention["keys"].get<int64_t>()) + " keys";
    if (attention["takes_part"]) return asked + ", which takes part (tried with " + keys + ")";
    std::string reasons;
    for (const Json& one : attention.value("absent", Json::array()))
        reasons += (reasons.empty() ? "" : "; ") + one["text"].get<std::string>();
    return asked + ", which takes NO part with " + keys + ": " +
           (reasons.empty() ? "sinks and window hold all of them" : reasons);
}

}  // namespace

int print_info(const std::string& library, bool json) {
    Json info{{"ggml", ggml_version()}, {"library", library}};
    info.update(load_in_child(library));
    const bool loads = info["loads"];
    if (json) {
        std::printf("%s\n", info.dump(2).c_str());
        return loads ? 0 : 1;
    }
    std::printf("ggml         %s\nlibrary      %s\n", ggml_version(), library.c_str());
    if (!loads) {
        std::printf("loads        no: %s\n", info.value("error", "the reason is in its message above").c_str());
        return 1;
    }
    const auto text = [&](const char* key) {
        return info[key].is_string() ? info[key].get<std::string>() : std::string("unknown");
    };
    std::printf("loads        yes\nbackend API  %s\nkernels      %s\n", text("backend_api").c_str(),
                text("kernels").c_str());
    for (const Json& device : info["devices"]) {
        std::printf("device       %-8s %s, %.1f of %.1f GiB free\n", device["name"].get<std::string>().c_str(),
                    device["description"].get<std::string>().c_str(), device["memory_free"].get<double>() / (1 << 30),
                    device["memory_total"].get<double>() / (1 << 30));
    }
    std::printf("attention    %s\n", describe_attention(info["attention"]).c_str());
    return 0;
}

}  // namespace atlas::tool
