#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>

#include "info.h"
#include "launch.h"
#include "locate.h"
#include "settings.h"

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

int run_program(int argc, char** argv, const std::string& library) {
    const Launch launch = plan_launch({argv + 1, argv + argc}, library);
    for (const std::string& note : launch.notes) std::fprintf(stderr, "atlas: %s\n", note.c_str());
    return fail(launch.error.empty() ? execute(launch) : launch.error);
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app{
        "Runs any llama.cpp program with Atlas's attention and KV cache:\n  atlas llama-server -m model.gguf … "
        "[--atlas-…]"};
    const std::string first = argc > 1 ? argv[1] : "";
    app.set_help_all_flag("--help-all", "This with the switches for experts");
    app.footer(describe_settings(first == "--help-all"));
    app.get_formatter()->enable_footer_formatting(false);
    app.require_subcommand(1);
    bool json = false;
    app.add_subcommand("eval", "Retrieval, perplexity and speed of a model, modes side by side; atlas eval --help");
    app.add_subcommand("convert",
                       "Learn where a model's memories start, from a text: model.atlas.gguf; atlas convert --help");
    CLI::App* info = app.add_subcommand("info", "What the host is, whether the plug-in loads, which kernels it chose");
    info->add_flag("--json", json, "As JSON");

    if (first == "eval" || first == "convert") return run_beside(first, argc, argv);
    std::string searched;
    const std::string library = locate_library(&searched);
    const bool is_program =
        !first.empty() && first != "info" && first != "-h" && first != "--help" && first != "--help-all";
    if (is_program) {
        if (library.empty()) return fail("libggml-atlas.so is not there; looked for " + searched);
        return run_program(argc, argv, library);
    }
    CLI11_PARSE(app, argc, argv);
    if (library.empty()) return fail("libggml-atlas.so is not there; looked for " + searched);
    return print_info(library, json);
}
