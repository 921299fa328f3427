// A runtime while contexts compute in threads of their own: modules come and go, statistics are read, the pool is resized.
// With "tiers": a pool that is shrunk below what is in use, so that pages go to disk.
// runtime_threads MODEL TEXT-FILE [tiers]
#include <atlas/atlas-runtime.h>
#include <ggml-backend.h>
#include <llama.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int32_t kText = 640, kBatch = 128, kSteps = 24;

[[noreturn]] void fail(const std::string& what) {
    std::fprintf(stderr, "runtime_threads: %s (last error: %s)\n", what.c_str(), atlas_runtime_get_last_error(nullptr));
    std::fflush(stderr);
    std::_Exit(1);
}

void expect(bool right, const std::string& what) {
    if (!right) fail(what);
}

void works(atlas_runtime_result result, const std::string& what) { expect(result == ATLAS_RUNTIME_SUCCESS, what); }

struct Free {
    void operator()(llama_model* model) const { llama_model_free(model); }
    void operator()(llama_context* ctx) const { llama_free(ctx); }
    void operator()(atlas_runtime_ctx* ctx) const { atlas_runtime_cleanup(ctx); }
};
using Model = std::unique_ptr<llama_model, Free>;
using Context = std::unique_ptr<llama_context, Free>;
using RuntimePtr = std::unique_ptr<atlas_runtime_ctx, Free>;
using Tokens = std::vector<llama_token>;

Context context_of(llama_model* model) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = kText + kSteps;
    params.n_batch = params.n_ubatch = kBatch;
    params.n_threads = params.n_threads_batch = 1;
    Context ctx(llama_init_from_model(model, params));
    expect(ctx != nullptr, "no context");
    return ctx;
}

std::vector<float> decode(llama_model* model, llama_context* ctx, Tokens tokens) {
    llama_memory_clear(llama_get_memory(ctx), false);
    for (int32_t done = 0; done < kText + kSteps;) {
        const int32_t part = done < kText ? kBatch : 1;
        expect(llama_decode(ctx, llama_batch_get_one(tokens.data() + done, part)) == 0, "llama_decode");
        done += part;
    }
    const float* logits = llama_get_logits_ith(ctx, -1);
    return {logits, logits + llama_vocab_n_tokens(llama_model_get_vocab(model))};
}

atlas_runtime_stats stats_of(const atlas_runtime_ctx* runtime) {
    atlas_runtime_stats stats;
    works(atlas_runtime_get_stats(runtime, &stats), "get_stats");
    return stats;
}

RuntimePtr runtime_of(const llama_model* model, size_t pool) {
    atlas_runtime_params params = atlas_runtime_default_params();
    params.memory_pool_size = pool;
    atlas_runtime_ctx* runtime = nullptr;
    works(atlas_runtime_init(&runtime, model, &params), "init");
    return RuntimePtr(runtime);
}

void in_threads(llama_model* model, const Tokens& tokens) {
    const RuntimePtr runtime = runtime_of(model, size_t{128} << 20);
    std::atomic<int> running{3};
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i) {
        threads.emplace_back([&, i] {
            const Context ctx = context_of(model);
            for (int round = 0; round < 3; ++round) {
                works(atlas_runtime_enable_for_context(runtime.get(), ctx.get()), "enable");
                decode(model, ctx.get(), tokens);
                // One is freed while it is enabled.
                if (i < 2) works(atlas_runtime_disable_for_context(runtime.get(), ctx.get()), "disable");
            }
            --running;
        });
    }
    const char* const names[] = {"sparse-attention", "weights", "exact-attention"};
    uint64_t turns = 0;
    while (running > 0) {
        const char* name = names[turns++ % 3];
        works(atlas_runtime_unload_module(runtime.get(), name), "unload");
        std::this_thread::sleep_for(std::chrono::milliseconds(3));
        for (const char* all : {"exact-attention", "sparse-attention", "weights"})
            works(atlas_runtime_load_module(runtime.get(), all), "load");
        works(atlas_runtime_resize_pool(runtime.get(), (size_t{64} + turns % 64) << 20), "resize");
        const atlas_runtime_stats stats = stats_of(runtime.get());
        expect(stats.contexts <= 3 && stats.estimated_calls <= stats.attention_calls, "statistics");
        size_t count = 0;
        works(atlas_runtime_get_active_modules(runtime.get(), nullptr, &count), "modules");
        expect(count == 3, "modules that are loaded");
    }
    for (std::thread& thread : threads) thread.join();
    const atlas_runtime_stats stats = stats_of(runtime.get());
    expect(stats.contexts == 0 && stats.index_memory == 0 && stats.scratch_memory == 0,
           "something is held by contexts that are gone");
    expect(stats.graphs >= 9u * (kText / kBatch + kSteps), "graphs " + std::to_string(stats.graphs));
    std::printf("%llu turns: %llu calls of attention, %llu by the host, %llu products, %llu by the host\n",
                static_cast<unsigned long long>(turns), static_cast<unsigned long long>(stats.attention_calls),
                static_cast<unsigned long long>(stats.attention_by_host),
                static_cast<unsigned long long>(stats.products),
                static_cast<unsigned long long>(stats.products_by_host));
    // A runtime that ends leaves contexts to themselves.
    const Context ctx = context_of(model);
    {
        const RuntimePtr other = runtime_of(model, 0);
        works(atlas_runtime_enable_for_context(other.get(), ctx.get()), "enable");
    }
    decode(model, ctx.get(), tokens);
}

void on_disk(llama_model* model, const Tokens& tokens) {
    const Context ctx = context_of(model);
    const RuntimePtr runtime = runtime_of(model, 0);
    expect(atlas_runtime_get_pool_capacity(runtime.get()) == size_t{64} << 20, "ATLAS_KV_RAM counts too");
    works(atlas_runtime_unload_module(runtime.get(), "sparse-attention"), "unload");
    works(atlas_runtime_enable_for_context(runtime.get(), ctx.get()), "enable");
    const std::vector<float> in_memory = decode(model, ctx.get(), tokens);
    const size_t used = atlas_runtime_get_pool_usage(runtime.get());
    expect(used > size_t{3} << 19 && stats_of(runtime.get()).kv_on_disk == 0, "all in memory");

    // Without its module nothing leaves.
    works(atlas_runtime_unload_module(runtime.get(), "tiered-kv"), "unload");
    expect(atlas_runtime_resize_pool(runtime.get(), size_t{1} << 20) == ATLAS_RUNTIME_ERROR_POOL_EXHAUSTED,
           "nothing may leave");
    expect(atlas_runtime_get_pool_usage(runtime.get()) == used && stats_of(runtime.get()).kv_disk_written == 0,
           "something left");
    works(atlas_runtime_load_module(runtime.get(), "tiered-kv"), "load");
    works(atlas_runtime_resize_pool(runtime.get(), size_t{1} << 20), "pages go to disk");
    const atlas_runtime_stats stats = stats_of(runtime.get());
    expect(stats.pool_used <= size_t{1} << 20 && stats.pool_capacity == size_t{1} << 20, "the pool is within its size");
    expect(stats.kv_on_disk > 0 && stats.kv_disk_written > 0, "pages are on disk: " + std::to_string(stats.kv_on_disk) +
                                                                  " of " + std::to_string(stats.kv_disk_written) +
                                                                  " bytes that were written");
    expect(decode(model, ctx.get(), tokens) == in_memory, "another answer from disk");
    expect(stats_of(runtime.get()).kv_disk_read > 0, "nothing was read back");
    std::printf("%zu bytes in use, then %zu of 1 MB, %zu on disk\n", used, stats.pool_used, stats.kv_on_disk);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) fail("usage: runtime_threads MODEL TEXT-FILE [tiers]");
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    ggml_backend_load_all();
    expect(ggml_backend_load(atlas_library_path()) != nullptr, "the backend does not load");
    const Model model(llama_model_load_from_file(argv[1], llama_model_default_params()));
    expect(model != nullptr, "the model cannot be loaded");
    std::ifstream file(argv[2]);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    Tokens tokens(text.size() + 16);
    const int32_t n = llama_tokenize(llama_model_get_vocab(model.get()), text.data(), static_cast<int32_t>(text.size()),
                                     tokens.data(), static_cast<int32_t>(tokens.size()), true, false);
    expect(n > 0, "the text cannot be tokenised");
    tokens.resize(static_cast<size_t>(n));
    while (tokens.size() < kText + kSteps) tokens.insert(tokens.end(), tokens.begin(), tokens.begin() + n);
    if (argc > 3) {
        on_disk(model.get(), tokens);
    } else {
        in_threads(model.get(), tokens);
    }
    return 0;
}
