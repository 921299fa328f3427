#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "bar.h"
#include "eval/measure.h"
#include "eval/plan.h"
#include "eval/report.h"
#include "eval/session.h"
#include "eval/tasks.h"
#include "eval/worker.h"
#include "locate.h"
#include "settings.h"

namespace {

using namespace atlas::eval;
namespace fs = std::filesystem;
using Json = nlohmann::json;

int fail(const std::string& message) {
    std::fprintf(stderr, "atlas eval: %s\n", message.c_str());
    return 1;
}

std::vector<std::string> default_texts() {
    std::vector<std::string> texts;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator("/usr/share/common-licenses", error))
        if (entry.is_regular_file() && !entry.is_symlink()) texts.push_back(entry.path().string());
    std::sort(texts.begin(), texts.end());
    return texts;
}

std::string check_task(const std::string& task) {
    const auto& known = task_names();
    const std::vector<std::string> parts = parts_of(task);
    for (const std::string& part : parts) {
        if (std::find(known.begin(), known.end(), part) != known.end()) {
            if (std::count(parts.begin(), parts.end(), part) > 1) return task + ": " + part + " is there twice";
            if (parts.size() == 1 || (part != "common-words" && part != "frequent-words")) continue;
            return task + ": the document of " + part + " may be a list of words and holds nothing else";
        }
        std::string names;
        for (const std::string& name : known) names += (names.empty() ? "" : ", ") + name;
        return task + ": no such task; there are " + names;
    }
    return {};
}

std::string check(const Plan& plan) {
    for (const std::string& task : plan.tasks) {
        if (const std::string problem = check_task(task); !problem.empty()) return problem;
    }
    for (const int length : plan.lengths)
        if (length < 64) return "--lengths " + std::to_string(length) + ": allowed is 64 and more";
    for (const int depth : plan.depths)
        if (depth < 0 || depth > 100) return "--depths " + std::to_string(depth) + ": allowed is 0 to 100 (percent)";
    if (plan.perplexity_context != 0 && plan.perplexity_context < 64)
        return "--perplexity " + std::to_string(plan.perplexity_context) + ": allowed is 0 (off) or 64 tokens and more";
    if (plan.perplexity_tail < 0 || plan.perplexity_tail > plan.perplexity_context)
        return "--tail " + std::to_string(plan.perplexity_tail) + ": allowed is 0 (all) to --perplexity";
    if (plan.tasks.empty() && plan.perplexity_context == 0) return "nothing to measure: no --tasks and --perplexity 0";
    if (!plan.tasks.empty() && (plan.lengths.empty() || plan.depths.empty()))
        return "--tasks need --lengths and --depths";
    if (plan.texts.empty() && (!plan.tasks.empty() || plan.perplexity_texts.empty()))
        return "no text: give files with --text";
    if (std::error_code error; !fs::is_regular_file(plan.model, error)) return plan.model + ": no such file";
    return {};
}

/** Where what was read is kept: the user's cache. */
std::string states_folder() {
    const char* cache = std::getenv("XDG_CACHE_HOME");
    const char* home = std::getenv("HOME");
    if (cache && *cache) return std::string(cache) + "/atlas/states";
    return std::string(home ? home : ".") + "/.cache/atlas/states";
}

/** "docs=a.txt,b.txt" */
std::string parse_text(const std::string& text, NamedText* out) {
    const size_t equals = text.find('=');
    if (equals == 0 || equals == std::string::npos) return text + ": not NAME=FILE[,FILE…]";
    out->name = text.substr(0, equals);
    for (size_t begin = equals + 1; begin <= text.size();) {
        const size_t end = std::min(text.find(',', begin), text.size());
        out->files.push_back(text.substr(begin, end - begin));
        begin = end + 1;
    }
    return {};
}

/** The library does not look for variables that it does not know: a misspelt one would measure the default under another name. */
std::string check_variables(const Mode& mode) {
    const auto& known = atlas::tool::settings();
    for (const auto& [name, value] : mode.environment) {
        const std::string& wanted = name;
        if (std::none_of(known.begin(), known.end(), [&](const auto& setting) { return wanted == setting.variable; }))
            return mode.name + ": " + name + ": no such variable; docs/options.md lists them, atlas --help too";
    }
    return {};
}

std::string write_file(const fs::path& path, const std::string& text) {
    std::ofstream file(path, std::ios::binary);
    file << text;
    file.close();
    return file ? std::string() : path.string() + ": " + std::strerror(errno);
}

/** Runs all modes and writes the report. Returns the exit status. */
int evaluate(const Plan& plan, const std::vector<Mode>& modes, const std::string& plugin, const fs::path& output) {
    std::error_code error;
    for (const fs::path& folder : {output, fs::path(plan.states)}) {
        if (!folder.empty()) fs::create_directories(folder, error);
        if (error) return fail(folder.string() + ": " + error.message());
    }
    // With one mode there is nothing to compare its distributions with.
    const fs::path base =
        modes.size() > 1 ? output / ("distributions-" + std::to_string(getpid()) + ".bin") : fs::path();
    Json report{{"plan", plan}, {"modes", Json::array()}};
    std::string failure;
    for (const Mode& mode : modes) {
        // Reading for later is work of its own.
        atlas::tool::Bar bar(mode.name, work_of(plan) * (plan.states.empty() ? 1 : 2));
        Mode reader = mode;
        if (!mode.reader.empty()) parse_mode(mode.reader, &reader);
        Json result = run_mode(plan, mode, reader, plugin, base.string(), &mode == &modes.front(),
                               [&](const std::string& what, int tokens) { bar.advance(what, tokens); });
        bar.end();
        if (result.contains("error")) {
            failure = "mode " + mode.name + ": " + result["error"].get<std::string>();
            if (const std::string said = result["messages"]; !said.empty()) failure += "\n" + said;
            break;
        }
        if (const std::string said = result["messages"]; !said.empty()) std::fprintf(stderr, "%s", said.c_str());
        summarize(&result);
        report["modes"].push_back({{"name", mode.name},
                                   {"environment", mode.environment},
                                   {"reader", mode.reader},
                                   {"result", std::move(result)}});
    }
    if (!base.empty()) fs::remove(base, error);
    if (!failure.empty()) return fail(failure);
    compare(&report);
    const std::string text = tables(report);
    std::printf("%s", text.c_str());
    for (const auto& [name, content] :
         {std::pair<const char*, std::string>{"report.json",
                                              report.dump(1, ' ', false, Json::error_handler_t::replace) + "\n"},
          {"report.md", text},
          {"report.svg", picture(report)}}) {
        if (const std::string problem = write_file(output / name, content); !problem.empty()) return fail(problem);
    }
    std::printf("\nWritten to %s: report.json, report.md, report.svg\n", output.string().c_str());
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc > 1 && std::strcmp(argv[1], "--worker") == 0) return worker_main();
    std::signal(SIGPIPE, SIG_IGN);
    CLI::App app{
        "Measures any GGUF model with and without Atlas: retrieval from long texts, perplexity, KL divergence, speed; "
        "modes side by side."};
    Plan plan;
    plan.tasks = {"single", "multi-key"};
    plan.lengths = {2048, 8192};
    plan.depths = {0, 25, 50, 75, 100};
    std::vector<std::string> mode_texts = {"host", "exact", "window", "sparse"};
    std::string output = "atlas-eval";
    std::string wording = "plain";
    std::string reader;
    std::vector<std::string> perplexity_texts;
    app.add_option("-m,--model", plan.model, "GGUF file")->required();
    app.add_option("--text", plan.texts, "text files, in this order (default: the licence texts of the system)");
    app.add_option("--modes", mode_texts,
                   "host (without Atlas), exact, window, sparse, memory (sparse with it); "
                   "sparse:ATLAS_REST=drop+ATLAS_BUDGET=512 sets "
                   "variables. The first is "
                   "what the others are compared with")
        ->delimiter(',')
        ->capture_default_str();
    app.add_option(
        "--read", reader,
        "the mode that reads the documents for all others, as MODE@READER does for one: what it has read is kept");
    app.add_option(
        "--states", plan.states,
        "folder where what was read is kept for the next time, or `cache` (the user's); none: every mode reads");
    app.add_option(
           "--tasks", plan.tasks,
           "single, multi-key, multi-value, multi-query, variable-tracking, common-words, frequent-words, codes, "
           "names, sentences, two-hop, counting, identifiers, qa; codes+qa shares a document; or none")
        ->delimiter(',')
        ->capture_default_str();
    app.add_option("--lengths", plan.lengths, "tokens of a document with its question and answer")
        ->delimiter(',')
        ->capture_default_str();
    app.add_option("--depths", plan.depths, "percent of the text before the fact of `single`")
        ->delimiter(',')
        ->capture_default_str();
    app.add_option("--samples", plan.samples, "documents per task and length, in turn at each depth")
        ->check(CLI::Range(1, 100000))
        ->capture_default_str();
    app.add_option("--distractors", plan.distractors, "other facts of the same form in `multi-key`")
        ->check(CLI::Range(0, 1000))
        ->capture_default_str();
    app.add_option(
           "--questions", plan.questions,
           "questions per document, each asked alone behind it: `multi-key` has one per fact, `multi-query` two, "
           "the others one")
        ->check(CLI::Range(1, 1001))
        ->capture_default_str();
    app.add_option("--seed", plan.seed, "of the documents")->capture_default_str();
    app.add_option("--wording", wording,
                   "plain (models/train/FORMS.md), ruler (its sentences) or varied (another for each fact)")
        ->check(CLI::IsMember({"plain", "ruler", "varied"}))
        ->capture_default_str();
    app.add_flag("--chat", plan.chat, "inside the model's chat template: for models that follow instructions");
    app.add_option("--perplexity", plan.perplexity_context,
                   "tokens of a document for perplexity and KL divergence; 0: none")
        ->capture_default_str();
    app.add_option("--perplexity-text", perplexity_texts,
                   "NAME=FILE[,FILE…], several times: texts for perplexity, each by itself (default: --text)");
    app.add_option("--tail", plan.perplexity_tail,
                   "only so many tokens at the end of a document are scored, behind what --read has read (0: all)")
        ->capture_default_str();
    app.add_option("--documents", plan.perplexity_documents, "documents for perplexity")
        ->check(CLI::Range(1, 100000))
        ->capture_default_str();
    app.add_option(
           "--batch", plan.perplexity_batch,
           "tokens read at a time for perplexity; up to 8, each selects for itself what it reads, as when writing")
        ->check(CLI::Range(1, Session::kBatch))
        ->capture_default_str();
    app.add_option("--kl-positions", plan.kl_positions,
                   "positions whose distributions are compared (4 bytes times the vocabulary each, on disk)")
        ->check(CLI::Range(1, 10000000))
        ->capture_default_str();
    app.add_option("-t,--threads", plan.threads, "0: one per core")->check(CLI::Range(0, 1024))->capture_default_str();
    app.add_option("--cache-type-k,--ctk", plan.cache_type_k, "type of the K cache")->capture_default_str();
    app.add_option("--cache-type-v,--ctv", plan.cache_type_v, "type of the V cache")->capture_default_str();
    app.add_flag("--beyond-training", plan.beyond_training, "allow lengths above the model's training context");
    app.add_flag("--repeat-text", plan.repeat_text, "start the text again where a document needs more than there is");
    app.add_option("-o,--output", output, "folder for report.json, report.md and report.svg")->capture_default_str();
    CLI11_PARSE(app, argc, argv);

    plan.wording = wording == "varied" ? Wording::kVaried : wording == "ruler" ? Wording::kRuler : Wording::kPlain;
    for (const std::string& text : perplexity_texts) {
        if (const std::string problem = parse_text(text, &plan.perplexity_texts.emplace_back()); !problem.empty())
            return fail("--perplexity-text " + problem);
    }
    if (plan.tasks == std::vector<std::string>{"none"}) plan.tasks.clear();
    if (plan.texts.empty()) plan.texts = default_texts();
    if (plan.tasks.empty()) plan.lengths.clear();
    if (plan.perplexity_context == 0) plan.perplexity_tail = 0;
    std::vector<Mode> modes(mode_texts.size());
    bool with_atlas = false;
    for (size_t i = 0; i < modes.size(); ++i) {
        if (!reader.empty() && mode_texts[i].find('@') == std::string::npos) mode_texts[i] += "@" + reader;
        if (const std::string problem = parse_mode(mode_texts[i], &modes[i]); !problem.empty()) return fail(problem);
        Mode reads = modes[i];
        if (!modes[i].reader.empty()) parse_mode(modes[i].reader, &reads);
        for (const Mode* mode : {&modes[i], &reads}) {
            if (const std::string problem = check_variables(*mode); !problem.empty()) return fail(problem);
            with_atlas |= mode->with_atlas;
        }
        if (!modes[i].reader.empty() && plan.states.empty()) plan.states = "cache";
    }
    if (plan.states == "cache") plan.states = states_folder();
    if (const std::string problem = check(plan); !problem.empty()) return fail(problem);
    std::string searched;
    const std::string plugin = with_atlas ? atlas::tool::locate_library(&searched) : "";
    if (with_atlas && plugin.empty()) return fail("libggml-atlas.so is not there; looked for " + searched);
    return evaluate(plan, modes, plugin, output);
}
