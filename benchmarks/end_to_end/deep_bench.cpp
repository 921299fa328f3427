// Decode and prefill at a context depth, like llama-bench -d, on libllama alone. llama-bench computes the whole depth, which takes hours at 128K
// tokens; this computes a beginning and appends copies of what the cache holds, through the interface that programs have for it: a sequence's state is
// read, put back as another sequence, turned to the positions behind the end, and joined with the first. So it runs with and without Atlas alike.
// One line of JSON per test.
#include <ggml-backend.h>
#include <llama.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int kBatch = 2048;
constexpr int kPieceTokens = 4096;  // copied at once: bounds what the copying adds to the peak of memory
constexpr int kWarmUpTokens = 64;   // makes the index and the threads; what a token costs does not depend on more
constexpr llama_seq_id kMain = 0;
constexpr llama_seq_id kCopy = 1;

struct Options {
    std::string model;
    std::string cache_type = "f16";
    std::string text;
    std::vector<int> depths{0};
    int beginning = 2048;
    std::vector<int> prompts{512};
    int generate = 32;
    int repetitions = 3;
    int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    double seconds = 30;
};

[[noreturn]] void fail(const std::string& text) { throw std::runtime_error(text); }

ggml_type cache_type(const std::string& name) {
    for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
        const char* known = ggml_type_name(static_cast<ggml_type>(i));
        if (known && name == known) return static_cast<ggml_type>(i);
    }
    fail(name + ": no such cache type");
}

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class Bench {
public:
    explicit Bench(const Options& options) : options_(options) {
        llama_model_params model_params = llama_model_default_params();
        model_params.n_gpu_layers = -1;
        model_.reset(llama_model_load_from_file(options.model.c_str(), model_params));
        if (!model_) fail(options.model + ": llama.cpp cannot load this model");
        llama_context_params params = llama_context_default_params();
        params.n_ctx =
            static_cast<uint32_t>(most(options.depths) + std::max({most(options.prompts), options.generate, 1}));
        params.n_batch = kBatch;
        params.n_threads = params.n_threads_batch = options.threads;
        params.n_seq_max = 2;
        params.kv_unified = true;  // both sequences in the same cells
        params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
        params.type_k = params.type_v = cache_type(options.cache_type);
        context_.reset(llama_init_from_model(model_.get(), params));
        if (!context_) fail("llama.cpp cannot make a context of " + std::to_string(params.n_ctx) + " tokens");
        memory_ = llama_get_memory(context_.get());
        vocabulary_ = llama_vocab_n_tokens(llama_model_get_vocab(model_.get()));
        if (!options.text.empty()) read_text(static_cast<int>(params.n_ctx));
    }

    void run() {
        for (const int depth : options_.depths) {
            fill(depth);
            report_logits(depth);
            if (options_.generate > 0) measure(depth, options_.generate, 1);
            for (const int prompt : options_.prompts) {
                if (prompt > 0) measure(depth, prompt, prompt);
            }
        }
    }

private:
    static int most(const std::vector<int>& values) {
        return values.empty() ? 0 : *std::max_element(values.begin(), values.end());
    }

    void read_text(int needed) {
        std::ifstream file(options_.text, std::ios::binary);
        const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
        const llama_vocab* vocabulary = llama_model_get_vocab(model_.get());
        text_.resize(text.size() + 8);
        const int n = llama_tokenize(vocabulary, text.data(), static_cast<int>(text.size()), text_.data(),
                                     static_cast<int>(text_.size()), true, false);
        text_.resize(static_cast<size_t>(std::max(n, 0)));
        if (n < needed)
            fail(options_.text + ": " + std::to_string(text_.size()) + " tokens, and " + std::to_string(needed) +
                 " are needed");
    }

    /** Appends `count` tokens in batches of at most `batch`: the text's, or random ones. */
    void decode(int count, int batch) {
        std::uniform_int_distribution<llama_token> any(0, vocabulary_ - 1);
        std::vector<llama_token> tokens(static_cast<size_t>(std::min(batch, kBatch)));
        for (int done = 0; done < count;) {
            const int n = std::min(count - done, static_cast<int>(tokens.size()));
            const auto at = static_cast<size_t>(end());
            for (size_t i = 0; i < static_cast<size_t>(n); ++i)
                tokens[i] = text_.empty() ? any(random_) : text_[at + i];
            if (const int status = llama_decode(context_.get(), llama_batch_get_one(tokens.data(), n)); status != 0)
                fail("llama_decode: status " + std::to_string(status));
            llama_synchronize(context_.get());
            done += n;
        }
    }

    int end() const { return llama_memory_seq_pos_max(memory_, kMain) + 1; }

    void cut(int end) {
        if (!llama_memory_seq_rm(memory_, kMain, end, -1)) fail("the cache cannot be cut");
    }

    /** Appends copies of the first `count` tokens. */
    void append_copies(int count) {
        const int old_end = end();
        std::vector<uint8_t> state;
        for (int done = 0; done < count; done += kPieceTokens) {
            const int n = std::min(kPieceTokens, count - done);
            llama_memory_seq_cp(memory_, kMain, kCopy, done, done + n);
            state.resize(llama_state_seq_get_size(context_.get(), kCopy));
            const size_t written = llama_state_seq_get_data(context_.get(), state.data(), state.size(), kCopy);
            llama_memory_seq_rm(memory_, kCopy, -1, -1);
            if (written == 0 || llama_state_seq_set_data(context_.get(), state.data(), written, kCopy) == 0)
                fail("the state of a sequence cannot be put back as another");
            llama_memory_seq_add(memory_, kCopy, -1, -1, old_end);
            llama_memory_seq_cp(memory_, kCopy, kMain, -1, -1);
            llama_memory_seq_rm(memory_, kCopy, -1, -1);
        }
        if (end() != old_end + count) fail("the copies ended up at other positions");
        // Keys are turned with the next batch, and what is copied next must have been.
        decode(1, 1);
        cut(old_end + count);
    }

    void fill(int depth) {
        const auto start = std::chrono::steady_clock::now();
        const int computed = text_.empty() ? std::min(depth, options_.beginning) : depth;
        if (end() < computed) decode(computed - end(), kBatch);
        while (end() < depth) append_copies(std::min(end(), depth - end()));
        std::fprintf(stderr, "depth %d after %.1f s\n", end(), seconds_since(start));
    }

    /** Of a token behind the end: what variants have to agree on, roughly. */
    void report_logits(int depth) {
        decode(1, 1);
        const float* logits = llama_get_logits_ith(context_.get(), -1);
        nlohmann::json line{{"depth", depth}};
        for (int i = 0; i < std::min(vocabulary_, 64); ++i) line["logits"].push_back(logits[i]);
        std::cout << line << std::endl;
        cut(depth);
    }

    void measure(int depth, int count, int batch) {
        std::vector<double> rates;
        decode(std::min(count, batch > 1 ? kWarmUpTokens : 4), batch);
        cut(depth);
        const auto first = std::chrono::steady_clock::now();
        for (int i = 0; i < options_.repetitions; ++i) {
            const auto start = std::chrono::steady_clock::now();
            decode(count, batch);
            rates.push_back(count / seconds_since(start));
            cut(depth);
            if (seconds_since(first) > options_.seconds) break;
        }
        std::cout << nlohmann::json{{"depth", depth},
                                    {"n_prompt", batch > 1 ? count : 0},
                                    {"n_gen", batch > 1 ? 0 : count},
                                    {"samples_ts", rates}}
                  << std::endl;
    }

    const Options options_;
    std::unique_ptr<llama_model, void (*)(llama_model*)> model_{nullptr, llama_model_free};
    std::unique_ptr<llama_context, void (*)(llama_context*)> context_{nullptr, llama_free};
    llama_memory_t memory_ = nullptr;
    int vocabulary_ = 0;
    std::mt19937 random_{1};
    std::vector<llama_token> text_;
};

}  // namespace

int main(int argc, char** argv) {
    try {
        Options options;
        CLI::App app(
            "Decode and prefill of unmodified libllama at a context depth; GGML_BACKEND_PATH decides whether Atlas "
            "runs.");
        app.add_option("-m,--model", options.model, "GGUF file")->required();
        app.add_option("-d,--depth", options.depths, "tokens already in the context; several: ascending")
            ->delimiter(',')
            ->check(CLI::NonNegativeNumber);
        app.add_option("--text", options.text, "what they are, all of them computed; without it random ones");
        app.add_option("--beginning", options.beginning, "tokens computed; the rest are copies of them")
            ->check(CLI::PositiveNumber);
        app.add_option("-p,--prompt", options.prompts, "tokens of the prefill tests, 0: none")
            ->delimiter(',')
            ->check(CLI::Range(0, kBatch));
        app.add_option("-n,--generate", options.generate, "tokens of the decode test, 0: none")
            ->check(CLI::NonNegativeNumber);
        app.add_option("-r,--repetitions", options.repetitions)->check(CLI::PositiveNumber);
        app.add_option("-t,--threads", options.threads)->check(CLI::PositiveNumber);
        app.add_option("--kv-type", options.cache_type, "f16, q8_0, …");
        app.add_option("--seconds", options.seconds, "a test that took longer is not repeated")
            ->check(CLI::NonNegativeNumber);
        CLI11_PARSE(app, argc, argv);
        if (!std::is_sorted(options.depths.begin(), options.depths.end())) fail("--depth: ascending is allowed");
        llama_log_set(
            [](ggml_log_level level, const char* text, void*) {
                if (level >= GGML_LOG_LEVEL_ERROR && level != GGML_LOG_LEVEL_CONT) std::fputs(text, stderr);
            },
            nullptr);
        ggml_backend_load_all();
        for (size_t i = 0; i < ggml_backend_dev_count(); ++i)
            std::fprintf(stderr, "device %s\n", ggml_backend_dev_name(ggml_backend_dev_get(i)));
        llama_backend_init();
        Bench(options).run();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "deep_bench: %s\n", error.what());
        return 1;
    }
    return 0;
}
