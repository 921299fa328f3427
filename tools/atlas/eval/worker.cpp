#include "eval/worker.h"

#include <fcntl.h>
#include <ggml-backend.h>
#include <llama.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <memory>

#include "eval/haystack.h"
#include "eval/keys.h"
#include "eval/measure.h"

namespace atlas::eval {
namespace {

constexpr int kEvents = 3;  // the worker's descriptor for what it reports

using Json = nlohmann::json;

void report(const Json& event) {
    const std::string line = event.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    for (size_t done = 0; done < line.size();) {
        const ssize_t n = write(kEvents, line.data() + done, line.size() - done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) _exit(1);  // whoever asked is gone
        done += static_cast<size_t>(n);
    }
}

/** Peak of resident memory in MiB. */
double peak_memory() {
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;) {
        double kib = 0;
        if (word == "VmHWM:" && status >> kib) return kib / 1024;
    }
    return 0;
}

Json measure(const Json& request) {
    const Plan plan = request.at("plan");
    // llama.cpp explains itself on standard error only where something is wrong.
    llama_log_set(
        [](ggml_log_level level, const char* text, void*) {
            if (level >= GGML_LOG_LEVEL_ERROR && level != GGML_LOG_LEVEL_CONT) std::fputs(text, stderr);
        },
        nullptr);
    ggml_backend_load_all();
    if (request.at("with_atlas") && !ggml_backend_dev_by_name("ATLAS0") && !ggml_backend_dev_by_name("ATLAS"))
        throw std::runtime_error("Atlas was not loaded");
    llama_backend_init();
    const std::string text = plan.tasks.empty() ? "" : read_texts(plan.texts);
    Session session(plan);
    int longest = plan.perplexity_context;
    for (const int length : plan.lengths) longest = std::max(longest, length);
    session.open(longest);
    const Progress progress = [](const std::string& what, int tokens) {
        report({{"progress", what}, {"tokens", tokens}});
    };
    Json result;
    const std::string phase = request.at("phase");
    Reader reader(session, plan, request.at("key"), phase == "reading" || plan.states.empty());
    if (phase == "reading") result[phase] = read_documents(session, reader, plan, text, progress);
    if (phase == "perplexity")
        result[phase] =
            measure_perplexity(session, reader, plan, request.at("base"), request.at("write_base"), progress);
    if (phase == "retrieval") result[phase] = measure_retrieval(session, reader, plan, text, progress);
    result["peak_memory_mib"] = peak_memory();
    return result;
}

/** In the child: becomes the worker. */
[[noreturn]] void become_worker(const Mode& mode, const std::string& plugin, const std::string& statistics, int input,
                                int events, int errors) {
    dup2(input, 0);
    const int null = open("/dev/null", O_WRONLY);
    if (null >= 0) dup2(null, 1);
    dup2(errors, 2);
    dup2(events, kEvents);
    if (mode.with_atlas) {
        setenv("GGML_BACKEND_PATH", plugin.c_str(), 1);
    } else {
        unsetenv("GGML_BACKEND_PATH");
    }
    if (mode.with_atlas) setenv("ATLAS_STATS", statistics.c_str(), 1);
    for (const auto& [name, value] : mode.environment) setenv(name.c_str(), value.c_str(), 1);
    execl("/proc/self/exe", "atlas-eval", "--worker", nullptr);
    _exit(127);
}

std::string last_lines(std::FILE* file, size_t most) {
    std::string text;
    if (std::fseek(file, 0, SEEK_SET) != 0) return text;
    char buffer[4096];
    for (size_t n = sizeof buffer; n == sizeof buffer;) {
        n = std::fread(buffer, 1, sizeof buffer, file);
        text.append(buffer, n);
    }
    return text.size() > most ? "…" + text.substr(text.size() - most) : text;
}

/** One phase in a process of its own, whose statistics go to the file. */
Json run_phase(const std::string& request, const Mode& mode, const std::string& plugin, const std::string& statistics,
               const std::function<void(const std::string&, int)>& progress) {
    int input[2];
    int events[2];
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> error_file(std::tmpfile(), std::fclose);
    std::FILE* const errors = error_file.get();
    if (!errors || pipe2(input, O_CLOEXEC) != 0 || pipe2(events, O_CLOEXEC) != 0)
        return {{"error", std::string("no pipe: ") + std::strerror(errno)}};
    // Descriptor 3 may be one of the pipes' own ends: keep them away from it.
    for (int* end : {&input[0], &events[1]}) {
        const int high = fcntl(*end, F_DUPFD_CLOEXEC, 10);
        if (high < 0) return {{"error", std::strerror(errno)}};
        close(*end);
        *end = high;
    }
    const pid_t child = fork();
    if (child == 0) become_worker(mode, plugin, statistics, input[0], events[1], fileno(errors));
    close(input[0]);
    close(events[1]);
    const bool sent =
        child > 0 && write(input[1], request.data(), request.size()) == static_cast<ssize_t>(request.size());
    close(input[1]);
    Json result;
    if (std::FILE* lines = fdopen(events[0], "r")) {
        char* line = nullptr;
        size_t room = 0;
        while (getline(&line, &room, lines) > 0) {
            const Json event = Json::parse(line, nullptr, false);
            if (event.is_discarded()) continue;
            if (event.contains("progress")) progress(event["progress"], event["tokens"]);
            if (event.contains("result")) result = event["result"];
            if (event.contains("error")) result = event;
        }
        std::free(line);
        std::fclose(lines);
    }
    int status = 0;
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    const std::string said = last_lines(errors, 2000);
    if (!sent && result.is_null()) result = {{"error", "the process could not be started"}};
    if (WIFSIGNALED(status))
        result = {{"error",
                   "ended with signal " + std::to_string(WTERMSIG(status)) + " (" + strsignal(WTERMSIG(status)) + ")"}};
    if (result.is_null())
        result = {{"error", "ended with status " + std::to_string(WEXITSTATUS(status)) + " and no result"}};
    result["messages"] = said;
    return result;
}

/** What stands for the mode in the names of what it has read. */
std::string key_of(const Mode& mode, const std::string& plugin) {
    if (!mode.with_atlas) return "host";
    std::string key;
    for (const auto& [name, value] : mode.environment) key += name + "=" + value + " ";
    // Exact attention writes what llama.cpp writes; the others may change with every version.
    return mode.is_exact() ? key : key + std::to_string(fingerprint(plugin));
}

std::string content_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace

int worker_main() {
    prctl(PR_SET_NAME, "atlas-eval");  // in lists of processes; it was started as /proc/self/exe
    try {
        const std::string request((std::istreambuf_iterator<char>(std::cin)), std::istreambuf_iterator<char>());
        report({{"result", measure(Json::parse(request))}});
    } catch (const std::exception& error) {
        report({{"error", error.what()}});
    }
    return 0;
}

Json run_mode(const Plan& plan, const Mode& mode, const Mode& reader, const std::string& plugin,
              const std::string& base, bool write_base, const std::function<void(const std::string&, int)>& progress) {
    const bool keeps = !plan.states.empty();
    std::vector<std::string> phases;
    if (keeps) phases.emplace_back("reading");
    if (plan.perplexity_context > 0) phases.emplace_back("perplexity");
    if (!plan.tasks.empty()) phases.emplace_back("retrieval");
    Json all{{"keys", Json::object()}, {"peak_memory_mib", 0.0}, {"messages", ""}};
    const std::string statistics =
        (std::filesystem::temp_directory_path() / ("atlas-eval-" + std::to_string(getpid()) + ".json")).string();
    try {
        const std::string key = keeps ? key_of(reader, plugin) : "";
        for (const std::string& phase : phases) {
            const Mode& runs = phase == "reading" ? reader : mode;
            const Json request{{"plan", plan}, {"with_atlas", runs.with_atlas}, {"phase", phase}, {"key", key},
                               {"base", base}, {"write_base", write_base}};
            Json result = run_phase(request.dump(), runs, plugin, statistics, progress);
            all["keys"][phase] = keys_of(content_of(statistics));
            std::filesystem::remove(statistics);
            all["messages"] = all["messages"].get<std::string>() + result.value("messages", "");
            if (result.contains("error")) return {{"error", result["error"]}, {"messages", all["messages"]}};
            all[phase] = std::move(result[phase]);
            all["peak_memory_mib"] =
                std::max(all["peak_memory_mib"].get<double>(), result["peak_memory_mib"].get<double>());
        }
    } catch (const std::exception& error) {
        return {{"error", error.what()}, {"messages", all["messages"]}};
    }
    return all;
}

}  // namespace atlas::eval
