#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>

#include "completion.h"
#include "doctor.h"
#include "info.h"
#include "launch.h"
#include "locate.h"
#include "recipes.h"
#include "running.h"
#include "settings.h"
#include "stats_file.h"
#include "version.h"

namespace {

using namespace atlas::tool;

int fail(const std::string& message) {
    std::fprintf(stderr, "atlas: %s\n", message.c_str());
    return 1;
}

/** atlas-eval and atlas-convert link libllama, this program does not: they lie beside it, and are not there where libllama's headers were missing. */
int run_beside(const std::string& name, int argc, char** argv) {
    std::error_code error;
    const std::string program =
        (std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / ("atlas-" + name)).string();
    Launch launch;
    launch.command.assign(argv + 1, argv + argc);
    launch.command.front() = program;
    if (!std::filesystem::exists(program, error))
        return fail(program + " is not there: Atlas was built without libllama's headers");
    return fail(execute(launch));
}

int run_program(const std::vector<std::string>& arguments, const std::string& library, bool show) {
    const Launch launch = plan_launch(arguments, library);
    for (const std::string& note : launch.notes) std::fprintf(stderr, "atlas: %s\n", note.c_str());
    if (!launch.error.empty()) return fail(launch.error);
    if (show) {
        std::string line;
        for (const auto& [name, value] : launch.environment) line += name + "=" + value + " ";
        for (const std::string& argument : launch.command) line += argument + " ";
        std::fprintf(stderr, "atlas: %s\n", line.c_str());
    }
    return fail(execute(launch));
}

int run_recipe(const Recipe& recipe, const std::string& library) {
    if (!recipe.error.empty()) return fail(recipe.error);
    for (const std::string& note : recipe.notes) std::fprintf(stderr, "atlas: %s\n", note.c_str());
    return run_program(recipe.arguments, library, true);
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app{
        "Runs any llama.cpp program with Atlas's attention, KV cache and weights:\n  atlas llama-server -m model.gguf "
        "… "
        "[--atlas-…]"};
    const std::string first = argc > 1 ? argv[1] : "";
    app.set_help_all_flag("--help-all", "This with the switches for experts");
    app.footer(describe_settings(first == "--help-all"));
    app.get_formatter()->enable_footer_formatting(false);
    app.set_version_flag("--version", version_text(), "What was built, and the versions of ggml it was tested with");
    app.require_subcommand(1);
    // For the help alone: what follows these words is a program's.
    app.add_subcommand("run", "MODEL …: chat in the terminal (llama-cli)");
    app.add_subcommand("serve", "MODEL …: llama-server, with a context that fits");
    app.add_subcommand("bench", "MODEL …: llama-bench without Atlas and with it");
    app.add_subcommand("eval", "Retrieval, perplexity and speed of a model, modes side by side; atlas eval --help");
    app.add_subcommand("convert",
                       "Learn where a model's memories start, from a text: model.atlas.gguf; atlas convert --help");
    bool json = false;
    int running = 0;
    std::string model, disk, shell, stats;
    CLI::App* info =
        app.add_subcommand("info", "What the host is and whether the plug-in loads; of a MODEL, what its file says");
    info->add_option("MODEL", model, "A GGUF file");
    info->add_option("--stats", stats,
                     "A file that ATLAS_STATS named: what took part in a run, and what did not and why")
        ->excludes("MODEL");
    CLI::Option* pid =
        info->add_option("--running", running,
                         "A process that has ATLAS_METRICS: modules, speed-up, memory and tiers as they are now")
            ->type_name("PID")
            ->excludes("MODEL")
            ->excludes("--stats");
    info->add_flag("--json", json, "As JSON");
    CLI::App* doctor = app.add_subcommand("doctor", "Looks at all that Atlas needs, and says what to do");
    doctor->add_option("--disk", disk, "A folder to be tried for the KV cache");
    CLI::App* completion =
        app.add_subcommand("completion", "bash, zsh or fish: a script that completes atlas's words and switches");
    completion->add_option("SHELL", shell, "bash, zsh or fish")->required();

    if (first == "eval" || first == "convert") return run_beside(first, argc, argv);
    std::string searched;
    const std::string library = locate_library(&searched);
    const std::vector<std::string> rest(argv + std::min(argc, 2), argv + argc);
    const bool asks_help = rest.size() == 1 && (rest.front() == "-h" || rest.front() == "--help");
    const bool is_recipe = !asks_help && (first == "run" || first == "serve" || first == "bench");
    const bool is_own = asks_help || first.empty() || first == "info" || first == "doctor" || first == "completion" ||
                        first == "-h" || first == "--help" || first == "--help-all" || first == "--version";
    if (is_recipe || !is_own) {
        if (library.empty()) return fail("libggml-atlas.so is not there; looked for " + searched);
        if (first == "run") return run_recipe(recipe_for_run(rest), library);
        if (first == "serve") return run_recipe(recipe_for_serve(rest), library);
        if (first == "bench") return bench(rest, library);
        return run_program({argv + 1, argv + argc}, library, false);
    }
    CLI11_PARSE(app, argc, argv);
    if (*completion) {
        const std::string script = completion_for(shell);
        if (script.empty()) return fail(shell + ": there are completions for bash, zsh and fish");
        std::fputs(script.c_str(), stdout);
        return 0;
    }
    if (!stats.empty()) return print_stats_file(stats, json);
    if (*pid) return print_running(running, json);
    if (*doctor) return run_doctor(library, searched, disk);
    if (library.empty()) return fail("libggml-atlas.so is not there; looked for " + searched);
    return model.empty() ? print_info(library, json) : print_model_info(model, library, json);
}
