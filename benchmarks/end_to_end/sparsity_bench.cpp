// What leaving inputs out of products (ATLAS_SPARSITY) costs in quality and gains in speed: a text gone on with token by token at several shares in turn, on libllama and the
// interface that a loaded backend has alone. Without --plugin: the host as it is. One line of JSON.
#include <atlas/atlas-runtime.h>
#include <ggml-backend.h>
#include <llama.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace {

/** Functions of the plug-in's headers, which it is asked for by name. */
struct Atlas {
    int (*set_option)(llama_context*, const char*, const char*) = nullptr;
    decltype(&atlas_runtime_default_params) default_params = nullptr;
    decltype(&atlas_runtime_init) init = nullptr;
    decltype(&atlas_runtime_load_module) load_module = nullptr;
    decltype(&atlas_runtime_enable_for_context) enable = nullptr;
    decltype(&atlas_runtime_get_stats) get_stats = nullptr;
    decltype(&atlas_runtime_cleanup) cleanup = nullptr;

    explicit Atlas(const std::string& plugin) {
        ggml_backend_reg_t registry = ggml_backend_load(plugin.c_str());
        const auto get = [&](auto* function, const char* name) {
            void* address = registry ? ggml_backend_reg_get_proc_address(registry, name) : nullptr;
            if (!address) throw std::runtime_error(plugin + " does not load, or has no " + name);
            *function = reinterpret_cast<std::decay_t<decltype(*function)>>(address);
        };
        get(&set_option, "llama_set_atlas_option");
        get(&default_params, "atlas_runtime_default_params");
        get(&init, "atlas_runtime_init");
        get(&load_module, "atlas_runtime_load_module");
        get(&enable, "atlas_runtime_enable_for_context");
        get(&get_stats, "atlas_runtime_get_stats");
        get(&cleanup, "atlas_runtime_cleanup");
    }
};

struct Free {
    void operator()(llama_model* model) const { llama_model_free(model); }
    void operator()(llama_context* ctx) const { llama_free(ctx); }
};

[[noreturn]] void fail(const std::string& text) { throw std::runtime_error(text); }

std::vector<llama_token> tokens_of(const llama_model* model, const std::string& path, size_t most) {
    std::ifstream file(path);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    std::vector<llama_token> tokens(text.size() + 8);
    const int32_t n = llama_tokenize(llama_model_get_vocab(model), text.data(), static_cast<int32_t>(text.size()),
                                     tokens.data(), static_cast<int32_t>(tokens.size()), true, false);
    if (n < 0 || static_cast<size_t>(n) < most) fail(path + ": has no " + std::to_string(most) + " tokens");
    tokens.resize(most);
    return tokens;
}

/** Log-probabilities out of logits, in place. */
void normalise(std::vector<float>* logits) {
    const double most = static_cast<double>(*std::max_element(logits->begin(), logits->end()));
    double sum = 0;
    for (const float one : *logits) sum += std::exp(static_cast<double>(one) - most);
    for (float& one : *logits) one = static_cast<float>(static_cast<double>(one) - most - std::log(sum));
}

struct Sums {
    double divergence = 0, same = 0, surprise = 0;
    std::vector<double> rates;      // tokens a second, per round
    std::vector<double> processor;  // the same of the processor's time, all threads together
};

double processor_seconds() {
    timespec time{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

struct Bench {
    Bench(const llama_model& of, llama_context* in, std::vector<llama_token> read, size_t prompt)
        : model(of), ctx(in), tokens(std::move(read)), n_prompt(prompt) {}

    /** Goes on with the text behind its beginning; adds to `sums` what differs from `reference`, which is filled where it is empty. */
    void run(std::vector<std::vector<float>>* reference, Sums* sums) {
        llama_memory_clear(llama_get_memory(ctx), true);
        if (llama_decode(ctx, llama_batch_get_one(tokens.data(), static_cast<int32_t>(n_prompt))) != 0)
            fail("llama_decode failed");
        const auto n_vocab = static_cast<size_t>(llama_vocab_n_tokens(llama_model_get_vocab(&model)));
        const bool first = reference->empty();
        double seconds = 0, processor = 0;
        for (size_t i = n_prompt; i + 1 < tokens.size(); ++i) {
            const double begin_processor = processor_seconds();
            const auto begin = std::chrono::steady_clock::now();
            if (llama_decode(ctx, llama_batch_get_one(&tokens[i], 1)) != 0) fail("llama_decode failed");
            const float* logits = llama_get_logits_ith(ctx, -1);
            seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
            processor += processor_seconds() - begin_processor;
            std::vector<float> now(logits, logits + n_vocab);
            normalise(&now);
            if (first) reference->push_back(now);
            const std::vector<float>& exact = (*reference)[i - n_prompt];
            for (size_t t = 0; t < n_vocab; ++t) {
                const auto p = static_cast<double>(exact[t]);
                sums->divergence += std::exp(p) * (p - static_cast<double>(now[t]));
            }
            const auto likeliest = [](const std::vector<float>& of) {
                return std::max_element(of.begin(), of.end()) - of.begin();
            };
            sums->same += likeliest(exact) == likeliest(now) ? 1 : 0;
            sums->surprise -= static_cast<double>(now[static_cast<size_t>(tokens[i + 1])]);
        }
        const auto n = static_cast<double>(tokens.size() - 1 - n_prompt);
        sums->rates.push_back(n / seconds);
        sums->processor.push_back(n / processor);
    }

    const llama_model& model;
    llama_context* ctx;
    std::vector<llama_token> tokens;
    size_t n_prompt;
};

}  // namespace

int main(int argc, char** argv) try {
    std::string model_path, text, plugin;
    std::vector<std::string> shares{"0"};
    size_t n_prompt = 64, n_tokens = 128;
    int rounds = 1, threads = 2;
    CLI::App app{"Speed and divergence of ATLAS_SPARSITY, one line of JSON"};
    app.add_option("-m,--model", model_path)->required();
    app.add_option("--text", text)->required();
    app.add_option("--plugin", plugin, "libggml-atlas.so; without it the host as it is");
    app.add_option("--shares", shares, "values of ATLAS_SPARSITY, 0 first")->delimiter(',');
    app.add_option("--prompt", n_prompt, "tokens read first, at once");
    app.add_option("--tokens", n_tokens, "tokens that follow, one by one");
    app.add_option("--rounds", rounds);
    app.add_option("--threads", threads);
    CLI11_PARSE(app, argc, argv);
    if (shares.front() != "0") fail("--shares: 0 first, which the others are compared with");
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    ggml_backend_load_all();
    std::unique_ptr<Atlas> atlas;
    if (!plugin.empty()) atlas = std::make_unique<Atlas>(plugin);
    const std::unique_ptr<llama_model, Free> model(
        llama_model_load_from_file(model_path.c_str(), llama_model_default_params()));
    if (!model) fail(model_path + " cannot be loaded");
    llama_context_params params = llama_context_default_params();
    params.n_ctx = static_cast<uint32_t>(n_prompt + n_tokens + 8);
    params.n_threads = params.n_threads_batch = threads;
    const std::unique_ptr<llama_context, Free> ctx(llama_init_from_model(model.get(), params));
    if (!ctx) fail("no context");
    Bench bench(*model, ctx.get(), tokens_of(model.get(), text, n_prompt + n_tokens + 1), n_prompt);
    std::vector<std::vector<float>> reference;
    std::vector<Sums> sums(shares.size());
    const auto choose = [&](const std::string& share) {
        if (atlas && atlas->set_option(ctx.get(), "ATLAS_SPARSITY", share.c_str()) != 0)
            fail("ATLAS_SPARSITY=" + share + " was refused");
    };
    // Copies of weights, threads, the file's pages.
    Sums warm_up;
    std::vector<std::vector<float>> unused;
    choose(shares.back());
    bench.run(&unused, &warm_up);
    unused.clear();
    for (int round = 0; round < rounds; ++round) {
        for (size_t i = 0; i < shares.size(); ++i) {
            choose(shares[i]);
            bench.run(&reference, &sums[i]);
        }
    }
    // What was left out, once more beside what was timed: nobody counts there. Of these products' weights, and bytes a token.
    std::vector<double> left_out(shares.size()), bytes(shares.size());
    for (size_t i = 1; atlas && i < shares.size(); ++i) {
        atlas_runtime_params of = atlas->default_params();
        of.memory_pool_size = 0;
        of.sparsity_threshold = std::stof(shares[i]);
        atlas_runtime_ctx* runtime = nullptr;
        if (atlas->init(&runtime, model.get(), &of) != 0 || atlas->load_module(runtime, "activation-sparsity") != 0 ||
            atlas->enable(runtime, ctx.get()) != 0)
            fail("activation-sparsity cannot be loaded");
        Sums unused_sums;
        bench.run(&reference, &unused_sums);
        atlas_runtime_stats stats;
        if (atlas->get_stats(runtime, &stats) != 0) fail("no statistics");
        atlas->cleanup(runtime);
        const auto all = static_cast<double>(stats.sparse_bytes);
        const double skipped = all - static_cast<double>(stats.sparse_bytes_read);
        left_out[i] = all > 0 ? skipped / all : 0.0;
        bytes[i] = skipped / static_cast<double>(n_tokens);
    }
    nlohmann::ordered_json out = nlohmann::ordered_json::array();
    const double n = static_cast<double>(n_tokens) * rounds;
    for (size_t i = 0; i < shares.size(); ++i)
        out.push_back({{"share", shares[i]},
                       {"rates", sums[i].rates},
                       {"processor", sums[i].processor},
                       {"left_out", left_out[i]},
                       {"bytes_left_out", bytes[i]},
                       {"divergence", sums[i].divergence / n},
                       {"same", sums[i].same / n},
                       {"perplexity", std::exp(sums[i].surprise / n)}});
    std::printf("%s\n", out.dump().c_str());
    return 0;
} catch (const std::exception& error) {
    std::fprintf(stderr, "sparsity_bench: %s\n", error.what());
    return 1;
}
