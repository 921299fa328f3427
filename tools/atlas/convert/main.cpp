#include <ggml-backend.h>
#include <llama.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <csignal>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "atlas/calibration.h"
#include "bar.h"
#include "eval/haystack.h"
#include "eval/session.h"
#include "launch.h"
#include "locate.h"

namespace {

using atlas::eval::Plan;
using atlas::eval::Session;
using atlas::eval::Tokens;

struct Work {
    std::string model, output;
    std::vector<std::string> texts;
    int context = 0;     ///< tokens per document; 0: what the model was trained for, at most 16384
    int documents = 12;  ///< learned from and held out together
    int held_out = 0;    ///< 0: a quarter, at least one
    int threads = 0;
    bool force = false;  ///< whether a side-car that is there may be replaced
};

/** The plug-in's functions; throws when it was not loaded or does not have them. */
struct Functions {
    decltype(&atlas_calibration_check_target) check_target = nullptr;
    decltype(&atlas_calibration_begin) begin = nullptr;
    decltype(&atlas_calibration_begin_document) begin_document = nullptr;
    decltype(&atlas_calibration_finish) finish = nullptr;
    decltype(&atlas_calibration_free) free = nullptr;
    decltype(&atlas_last_error) last_error = nullptr;

    Functions() {
        ggml_backend_reg_t registry = ggml_backend_reg_by_name("ATLAS");
        if (!registry) throw std::runtime_error("Atlas was not loaded");
        const auto get = [&](auto* function, const char* name) {
            void* address = ggml_backend_reg_get_proc_address(registry, name);
            if (!address) throw std::runtime_error(std::string("the library has no ") + name);
            *function = reinterpret_cast<std::decay_t<decltype(*function)>>(address);
        };
        get(&check_target, "atlas_calibration_check_target");
        get(&begin, "atlas_calibration_begin");
        get(&begin_document, "atlas_calibration_begin_document");
        get(&finish, "atlas_calibration_finish");
        get(&free, "atlas_calibration_free");
        get(&last_error, "atlas_last_error");
    }

    void check(atlas_status status) const {
        if (status == ATLAS_OK) return;
        // The name of the library's function is of no use to who reads this.
        const std::string text = last_error();
        const size_t colon = text.starts_with("atlas_") ? text.find(": ") : std::string::npos;
        throw std::runtime_error(colon == std::string::npos ? text : text.substr(colon + 2));
    }
};

/** Documents at even distances in the text; every fourth or so is held out, so that both kinds come from everywhere in it. */
std::vector<Tokens> documents_of(const Session& session, const Work& work) {
    const Tokens tokens = session.tokenize(atlas::eval::read_texts(work.texts));
    const Tokens beginning = session.beginning();
    const size_t body = static_cast<size_t>(work.context) - beginning.size();
    const auto n = static_cast<size_t>(work.documents);
    if (tokens.size() < body * n) {
        throw std::runtime_error("the text has " + std::to_string(tokens.size()) + " tokens; " +
                                 std::to_string(work.documents) + " documents of " + std::to_string(work.context) +
                                 " need " + std::to_string(body * n) + ": give more text, --documents or --ctx");
    }
    std::vector<Tokens> documents;
    for (size_t i = 0; i < n; ++i) {
        Tokens document = beginning;
        const auto from = tokens.begin() + static_cast<ptrdiff_t>(i * (tokens.size() / n));
        document.insert(document.end(), from, from + static_cast<ptrdiff_t>(body));
        documents.push_back(std::move(document));
    }
    return documents;
}

bool is_held_out(int document, const Work& work) {
    return (document + 1) * work.held_out / work.documents > document * work.held_out / work.documents;
}

void print(const atlas_calibration_report& report, const Work& work) {
    if (report.thresholds > 0)
        std::printf("Thresholds for the inputs of %lld matrices of weights (--atlas-sparsity).\n",
                    static_cast<long long>(report.thresholds));
    if (report.heads == 0) {
        std::printf("No memories: documents of %d tokens have nothing that sparse attention leaves out.\n", work.context);
        return;
    }
    const auto row = [&](const char* what, double error) {
        std::printf("| %-62s | %8.4f |\n", what, error / report.error_dropped);
    };
    std::printf("| %-62s | %8s |\n| %s | -------: |\n", "attention over held-out text", "error",
                std::string(62, '-').c_str());
    row("what is not read is left out", report.error_dropped);
    row("estimated", report.error_estimate);
    row("with a mass bias where it helps", report.error_biased);
    row("and memories that start empty", report.error_learning);
    row("and memories that start from this text", report.error_calibrated);
    row("the best for each head, which the file has", report.error_best);
    std::printf(
        "\n%lld heads: %lld start from the file, %lld start empty, %lld keep the estimate alone, %lld leave out what "
        "is not read; %lld have a mass bias. Learned from %lld observations of %d documents, decided by %d others.\n",
        static_cast<long long>(report.heads), static_cast<long long>(report.heads_calibrated),
        static_cast<long long>(report.heads_empty), static_cast<long long>(report.heads_estimate),
        static_cast<long long>(report.heads_dropped), static_cast<long long>(report.heads_biased),
        static_cast<long long>(report.observations), work.documents - work.held_out, work.held_out);
}

void convert(Work work) {
    // llama.cpp explains itself on standard error only where something is wrong.
    llama_log_set(
        [](ggml_log_level level, const char* text, void*) {
            if (level >= GGML_LOG_LEVEL_ERROR && level != GGML_LOG_LEVEL_CONT) std::fputs(text, stderr);
        },
        nullptr);
    ggml_backend_load_all();
    const Functions atlas;
    const std::string name = std::filesystem::path(work.model).filename().string();
    atlas_calibration_target target{};
    target.size = sizeof target;
    target.output = work.output.c_str();
    target.model = work.model.c_str();
    target.model_name = name.c_str();
    target.threads = work.threads;
    target.replace = work.force;
    atlas.check(atlas.check_target(&target));
    llama_backend_init();
    Plan plan;
    plan.model = work.model;
    plan.threads = work.threads;
    Session session(plan);
    if (work.context == 0) work.context = std::min(session.trained_context(), 16384);
    const std::vector<Tokens> documents = documents_of(session, work);
    session.open(work.context);
    atlas_calibration* calibration = nullptr;
    atlas.check(atlas.begin(&calibration));
    const std::unique_ptr<atlas_calibration, decltype(atlas.free)> owner(calibration, atlas.free);
    atlas::tool::Bar bar("calibrating", static_cast<int64_t>(work.documents) * work.context);
    for (int i = 0; i < work.documents; ++i) {
        const Tokens& document = documents[static_cast<size_t>(i)];
        session.clear();
        atlas.check(atlas.begin_document(calibration, is_held_out(i, work)));
        const std::string what = "document " + std::to_string(i + 1) + " of " + std::to_string(work.documents);
        for (int begin = 0; begin < work.context; begin += Session::kBatch) {
            const int n = std::min(Session::kBatch, work.context - begin);
            session.decode(document.data() + begin, n, false);
            bar.advance(what, n);
        }
    }
    bar.end();
    std::fprintf(stderr, "fitting …\n");
    target.context = work.context;
    atlas_calibration_report report{};
    report.size = sizeof report;
    atlas.check(atlas.finish(calibration, &target, &report));
    print(report, work);
    std::printf("Written: %s\n", work.output.c_str());
}

int fail(const std::string& message) {
    std::fprintf(stderr, "atlas convert: %s\n", message.c_str());
    return 1;
}

}  // namespace

int main(int argc, char** argv) {
    // A limit on the size of files is an error that is told, not the end of the process.
    std::signal(SIGXFSZ, SIG_IGN);
    // Switches of the library (--atlas-…) are split off as the launcher does it.
    std::string searched;
    const std::string library = atlas::tool::locate_library(&searched);
    const atlas::tool::Launch launch = atlas::tool::plan_launch({argv, argv + argc}, library);
    if (!launch.error.empty()) return fail(launch.error);

    CLI::App app{
        "Learns from a text where a model's memories start, which heads gain by them, how far the mass of what is "
        "not read is off, and, of weights in f16, bf16 or f32, below what inputs of products may be left out; writes it "
        "beside the model (docs/side-car.md). Switches of the library (--atlas-memory-kind deep, --atlas-threshold "
        "2048, …) work as with any "
        "program."};
    Work work;
    app.add_option("-m,--model", work.model, "GGUF file")->required();
    app.add_option("-f,--file", work.texts, "text to learn from, like what the model will read; several are joined")
        ->required();
    app.add_option("-o,--output", work.output, "file to write (default: model.atlas.gguf beside the model)");
    app.add_flag("--force", work.force, "replace a side-car that is there; other files are never replaced");
    app.add_option("-c,--ctx", work.context,
                   "tokens of a document (default: the model's training context, at most 16384)")
        ->check(CLI::Range(128, 1 << 24));
    app.add_option("--documents", work.documents, "documents, at even distances in the text")
        ->check(CLI::Range(2, 100000))
        ->capture_default_str();
    app.add_option("--held-out", work.held_out,
                   "how many of them decide instead of being learned from (default: a quarter)")
        ->check(CLI::Range(1, 100000));
    app.add_option("-t,--threads", work.threads, "0: one per core")->check(CLI::Range(0, 1024))->capture_default_str();
    std::vector<std::string> arguments(launch.command.rbegin(), launch.command.rend() - 1);
    try {
        app.parse(arguments);
    } catch (const CLI::ParseError& error) {
        return app.exit(error);
    }
    if (library.empty()) return fail("libggml-atlas.so is not there; looked for " + searched);
    if (std::error_code error; !std::filesystem::is_regular_file(work.model, error))
        return fail(work.model + ": no such file");
    if (work.held_out == 0) work.held_out = std::max(1, work.documents / 4);
    if (work.held_out >= work.documents)
        return fail("--held-out " + std::to_string(work.held_out) + ": allowed is less than --documents, " +
                    std::to_string(work.documents));
    if (work.output.empty())
        work.output = std::filesystem::path(work.model).replace_extension().string() + ".atlas.gguf";
    for (const auto& [name, value] : launch.environment) setenv(name.c_str(), value.c_str(), 1);
    for (const auto& [name, value] :
         {std::pair{"ATLAS_MODE", "sparse"}, {"ATLAS_MEMORY", "1"}, {"ATLAS_SIDE_CAR", "none"}})
        setenv(name, value, 1);
    try {
        convert(std::move(work));
    } catch (const std::exception& error) {
        return fail(error.what());
    }
    return 0;
}
