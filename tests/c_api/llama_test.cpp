// Real llama.cpp contexts, four threads, each context with settings of its own and switched between decodes.
// llama_test MODEL TEXT-FILE
#include <atlas/llama-atlas.h>
#include <ggml-backend.h>
#include <llama.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

#ifdef ATLAS_FEW_TOKENS
constexpr int32_t kText = 640;
#else
constexpr int32_t kText = 1536;
#endif
constexpr int32_t kSteps = 12, kBatch = 256;

[[noreturn]] void fail(const std::string& what) {
    std::fprintf(stderr, "llama_test: %s\n", what.c_str());
    std::fflush(stderr);
    std::_Exit(1);
}

void expect(bool right, const std::string& what) {
    if (!right) fail(what + " (last error: " + atlas_last_error() + ")");
}

struct Free {
    void operator()(llama_model* model) const { llama_model_free(model); }
    void operator()(llama_context* ctx) const { llama_free(ctx); }
};
using Model = std::unique_ptr<llama_model, Free>;
using Tokens = std::vector<llama_token>;
using Logits = std::vector<float>;

class Context {
public:
    explicit Context(llama_model* model) : vocab_(llama_model_get_vocab(model)) {
        llama_context_params params = llama_context_default_params();
        params.n_ctx = kText + kSteps;
        params.n_batch = params.n_ubatch = kBatch;
        params.n_threads = params.n_threads_batch = 1;
        ctx_.reset(llama_init_from_model(model, params));
        if (!ctx_) fail("no context");
    }

    llama_context* get() { return ctx_.get(); }

    Logits decode(const llama_token* tokens, int32_t count) {
        for (int32_t done = 0; done < count; done += kBatch) {
            auto* part = const_cast<llama_token*>(tokens + done);
            if (llama_decode(get(), llama_batch_get_one(part, std::min(kBatch, count - done))) != 0)
                fail("llama_decode");
        }
        const float* logits = llama_get_logits_ith(get(), -1);
        return {logits, logits + llama_vocab_n_tokens(vocab_)};
    }

    /** Logits after each of the last kSteps tokens, read one by one; `before` is called before each. */
    std::vector<Logits> steps(const Tokens& tokens, const std::function<void(int)>& before) {
        llama_memory_seq_rm(llama_get_memory(get()), 0, kText, -1);
        std::vector<Logits> all;
        for (int i = 0; i < kSteps; ++i) {
            before(i);
            all.push_back(decode(&tokens[static_cast<size_t>(kText + i)], 1));
        }
        return all;
    }

    llama_atlas_stats stats() {
        llama_atlas_stats stats{};
        stats.size = sizeof stats;
        expect(llama_get_atlas_stats(get(), &stats) == ATLAS_OK, "llama_get_atlas_stats");
        return stats;
    }

    void enable(bool on) { expect(llama_set_atlas_enabled(get(), on) == ATLAS_OK, "llama_set_atlas_enabled"); }

private:
    const llama_vocab* vocab_;
    std::unique_ptr<llama_context, Free> ctx_;
};

struct Result {
    std::vector<Logits> off, on, mixed;
    llama_atlas_stats stats{};
};

/** Context `number` of four: everything it computes and what its statistics say. */
Result run(llama_model* model, const Tokens& tokens, int number) {
    Context context(model);
    expect(llama_set_atlas_blend_ratio(context.get(), 0.25f * static_cast<float>(number)) == ATLAS_OK, "blend ratio");
    expect(llama_set_atlas_feature_type(context.get(), static_cast<atlas_feature_type>(number)) == ATLAS_OK,
           "features");
    context.enable(false);
    context.decode(tokens.data(), kText);
    Result result;
    result.off = context.steps(tokens, [](int) {});
    context.enable(true);
    result.on = context.steps(tokens, [](int) {});
    // Off again for the first half: those steps must be the exact ones. Then on, in a pattern of this context's own.
    result.mixed =
        context.steps(tokens, [&](int step) { context.enable(step >= kSteps / 2 && step % (number + 1) == 0); });
    result.stats = context.stats();
    return result;
}

void check(const Result& result, const std::vector<Logits>& exact, int number) {
    const std::string name = "context " + std::to_string(number) + ": ";
    expect(result.off == exact, name + "off is not exact");
    expect(result.on != exact, name + "on estimated nothing");
    for (int i = 0; i < kSteps / 2; ++i)
        expect(result.mixed[static_cast<size_t>(i)] == exact[static_cast<size_t>(i)],
               name + "off after on is not exact");
    expect(result.stats.blend_ratio == 0.25 * number, name + "blend ratio " + std::to_string(result.stats.blend_ratio));
    expect(result.stats.feature_type == number, name + "feature type " + std::to_string(result.stats.feature_type));
    expect(result.stats.estimated_calls > 0 && result.stats.estimated_calls < result.stats.attention_calls,
           name + "calls");
    expect(result.stats.memories > 0 && result.stats.observations > 0, name + "no memory learned");
    expect(result.stats.exact_keys < result.stats.visible_keys, name + "every key was read");
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) fail("usage: llama_test MODEL TEXT-FILE");
    unsetenv("GGML_BACKEND_PATH");
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    ggml_backend_load_all();

    // Loaded before the backend: contexts of this model are none of Atlas's.
    Model before(llama_model_load_from_file(argv[1], llama_model_default_params()));
    expect(before != nullptr, "the model cannot be loaded");
    {
        Context context(before.get());
        expect(llama_set_atlas_enabled(context.get(), true) == ATLAS_NOT_ACTIVE, "a context without Atlas");
        llama_atlas_stats stats{};
        stats.size = sizeof stats;
        expect(llama_get_atlas_stats(context.get(), &stats) == ATLAS_NOT_ACTIVE,
               "statistics of a context without Atlas");
    }
    expect(ggml_backend_load(atlas_library_path()) != nullptr, "the backend does not load");
    Model model(llama_model_load_from_file(argv[1], llama_model_default_params()));
    expect(model != nullptr, "the model cannot be loaded again");
    expect(!llama_model_has_atlas(model.get()), "a side-car without a side-car");

    std::ifstream file(argv[2]);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    Tokens tokens(text.size() + 16);
    const int32_t n = llama_tokenize(llama_model_get_vocab(model.get()), text.data(), static_cast<int32_t>(text.size()),
                                     tokens.data(), static_cast<int32_t>(tokens.size()), true, false);
    if (n < 1) fail("the text cannot be tokenised");
    // The text again and again, if it is short.
    tokens.resize(static_cast<size_t>(n));
    while (tokens.size() < kText + kSteps) tokens.insert(tokens.end(), tokens.begin(), tokens.begin() + n);

    std::vector<Logits> exact;
    {
        Context context(model.get());
        context.decode(tokens.data(), kText);
        exact = context.steps(tokens, [](int) {});
        expect(context.stats().estimated_calls == 0, "a context that nobody switched on estimated something");
    }
    std::vector<Result> results(4);
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([&, i] { results[static_cast<size_t>(i)] = run(model.get(), tokens, i); });
    for (std::thread& thread : threads) thread.join();
    for (int i = 0; i < 4; ++i) check(results[static_cast<size_t>(i)], exact, i);
    for (int i = 1; i < 4; ++i)
        expect(results[static_cast<size_t>(i)].mixed != results[0].mixed,
               "contexts with different settings computed the same");
    // Alone it computes what it computed beside the others.
    const Result alone = run(model.get(), tokens, 3);
    expect(alone.on == results[3].on && alone.mixed == results[3].mixed, "context 3 computes something else alone");
    std::printf("four contexts: %d steps off, on and mixed; %.0f of %.0f keys read, %llu memories\n", kSteps,
                alone.stats.exact_keys, alone.stats.visible_keys,
                static_cast<unsigned long long>(alone.stats.memories));
    return 0;
}
