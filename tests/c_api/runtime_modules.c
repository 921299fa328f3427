/*
 * Modules of atlas/atlas-runtime.h loaded and unloaded beside a real llama.cpp context, and what then runs, by the statistics and by the logits. The settings of
 * the process make 1024 tokens a long text: ATLAS_THRESHOLD=256 ATLAS_WINDOW=64 ATLAS_BUDGET=128 …
 *
 *   runtime_modules MODEL TEXT-FILE
 */
#include <atlas/atlas-runtime.h>
#include <ggml-backend.h>
#include <llama.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 1024, BATCH = 256, STEPS = 12, MANY_STEPS = 300 };

#define EXPECT(right) expect((right), #right, __LINE__)
#define WORKS(call) EXPECT((call) == ATLAS_RUNTIME_SUCCESS)
#define FAILS(expected, call, said) \
    EXPECT((call) == (expected) && strstr(atlas_runtime_get_last_error(NULL), said) != NULL)

float mission_in_c(struct llama_model* model, struct llama_context* ctx, void (*decode)(struct llama_context*));
float mission_in_cpp(struct llama_model* model, struct llama_context* ctx, void (*decode)(struct llama_context*));

static llama_token tokens[TOKENS + MANY_STEPS];
static int n_vocab;
static float* logits; /* of the present way to compute */
static float* exact;  /* of Atlas's exact attention and weights */

static void expect(bool right, const char* what, int line) {
    if (right) return;
    fprintf(stderr, "runtime_modules.c:%d: %s (last error: %s)\n", line, what, atlas_runtime_get_last_error(NULL));
    exit(1);
}

static void decode(struct llama_context* ctx, int first, int count) {
    for (int done = 0; done < count; done += BATCH) {
        const int part = count - done < BATCH ? count - done : BATCH;
        EXPECT(llama_decode(ctx, llama_batch_get_one(tokens + first + done, part)) == 0);
    }
}

/* Reads the text, and then some tokens one by one; keeps the logits of the last. */
static void steps(struct llama_context* ctx, int count, bool text_too) {
    llama_memory_seq_rm(llama_get_memory(ctx), 0, text_too ? 0 : TOKENS, -1);
    if (text_too) decode(ctx, 0, TOKENS);
    for (int i = 0; i < count; ++i) decode(ctx, TOKENS + i, 1);
    memcpy(logits, llama_get_logits_ith(ctx, -1), sizeof(float) * (size_t)n_vocab);
}

static void few_steps(struct llama_context* ctx) { steps(ctx, STEPS, true); }

static double divergence(const float* a, const float* b) {
    double sum_a = 0, sum_b = 0, kl = 0;
    for (int i = 0; i < n_vocab; ++i) sum_a += exp(a[i]), sum_b += exp(b[i]);
    for (int i = 0; i < n_vocab; ++i) kl += exp(a[i]) / sum_a * (a[i] - log(sum_a) - b[i] + log(sum_b));
    return kl;
}

static atlas_runtime_stats stats_of(const atlas_runtime_ctx* runtime) {
    atlas_runtime_stats stats;
    memset(&stats, 0xAB, sizeof stats); /* the caller need not prepare it */
    WORKS(atlas_runtime_get_stats(runtime, &stats));
    return stats;
}

static atlas_module_info module_of(atlas_runtime_ctx* runtime, const char* name) {
    atlas_module_info infos[16];
    size_t count = 16;
    WORKS(atlas_runtime_get_modules(runtime, infos, &count));
    size_t at = 0;
    while (at < count && strcmp(infos[at].name, name) != 0) ++at;
    EXPECT(at < count);
    return infos[at];
}

static void modules(atlas_runtime_ctx* runtime, struct llama_context* ctx) {
    WORKS(atlas_runtime_enable_for_context(runtime, ctx));
    steps(ctx, STEPS, true);
    atlas_runtime_stats at = stats_of(runtime);
    EXPECT(at.contexts == 1 && at.graphs > STEPS && at.compute_seconds > 0);
    EXPECT(at.attention_calls > 0 && at.estimated_calls > 0 && at.attention_by_host == 0);
    EXPECT(at.products > 0 && at.products_by_host == 0 && at.operations_processed > at.products);
    EXPECT(at.exact_keys > 0 && at.exact_keys < at.visible_keys);
    EXPECT(at.index_memory > 0 && at.kv_memory > 0 && at.pool_used >= at.index_memory + at.kv_memory);
    EXPECT(at.memories == 0 && at.total_memory_used >= at.pool_used);
    EXPECT(module_of(runtime, "sparse-attention").memory_usage == at.index_memory);

    /* Memories begin with their module, and count in the pool. */
    WORKS(atlas_runtime_load_module(runtime, "atlas-memory"));
    steps(ctx, STEPS, true);
    atlas_runtime_stats now = stats_of(runtime);
    EXPECT(now.memories > 0 && now.memories_memory > 0 && now.modules_loaded == at.modules_loaded + 1);
    EXPECT(module_of(runtime, "atlas-memory").is_active && module_of(runtime, "atlas-memory").performance_gain < 1);

    /* Without sparse attention nothing is estimated, and memories have nothing to correct. */
    WORKS(atlas_runtime_unload_module(runtime, "sparse-attention"));
    EXPECT(!module_of(runtime, "atlas-memory").is_active);
    at = stats_of(runtime);
    steps(ctx, STEPS, true);
    now = stats_of(runtime);
    EXPECT(now.attention_calls > at.attention_calls && now.estimated_calls == at.estimated_calls);
    memcpy(exact, logits, sizeof(float) * (size_t)n_vocab);

    /* Products by the host: others, and the same answer but for rounding. */
    WORKS(atlas_runtime_unload_module(runtime, "weights"));
    at = stats_of(runtime);
    steps(ctx, STEPS, true);
    now = stats_of(runtime);
    EXPECT(now.products == at.products && now.products_by_host > at.products_by_host);
    EXPECT(now.attention_calls > at.attention_calls);
    EXPECT(divergence(exact, logits) < 1e-3);

    /* The host's attention too. */
    WORKS(atlas_runtime_unload_module(runtime, "exact-attention"));
    at = stats_of(runtime);
    steps(ctx, STEPS, true);
    now = stats_of(runtime);
    EXPECT(now.attention_calls == at.attention_calls && now.attention_by_host > at.attention_by_host);
    EXPECT(now.operations_by_host > at.operations_by_host);
    EXPECT(divergence(exact, logits) < 1e-3);

    /* And all back: the logits of before, bit for bit. */
    WORKS(atlas_runtime_load_module(runtime, "exact-attention"));
    WORKS(atlas_runtime_load_module(runtime, "weights"));
    steps(ctx, STEPS, true);
    EXPECT(memcmp(exact, logits, sizeof(float) * (size_t)n_vocab) == 0);

    /* Single tokens leave a tenth of each layer's last inputs out, until the module goes. */
    WORKS(atlas_runtime_load_module(runtime, "activation-sparsity"));
    at = stats_of(runtime);
    steps(ctx, STEPS, true);
    now = stats_of(runtime);
    EXPECT(at.sparse_products == 0 && now.sparse_products >= STEPS);
    EXPECT(module_of(runtime, "activation-sparsity").calls == now.sparse_products);
    EXPECT(module_of(runtime, "weights").calls == now.products - now.sparse_products);
    EXPECT(module_of(runtime, "activation-sparsity").memory_usage > 0 &&
           module_of(runtime, "activation-sparsity").memory_usage <= now.scratch_memory);
    EXPECT(memcmp(exact, logits, sizeof(float) * (size_t)n_vocab) != 0 && divergence(exact, logits) < 0.1);
    WORKS(atlas_runtime_unload_module(runtime, "activation-sparsity"));
    steps(ctx, STEPS, true);
    EXPECT(stats_of(runtime).sparse_products == now.sparse_products);
    EXPECT(memcmp(exact, logits, sizeof(float) * (size_t)n_vocab) == 0);

    WORKS(atlas_runtime_load_module(runtime, "sparse-attention"));
    at = stats_of(runtime);
    steps(ctx, STEPS, true);
    EXPECT(stats_of(runtime).estimated_calls > at.estimated_calls);

    WORKS(atlas_runtime_disable_for_context(runtime, ctx));
    FAILS(ATLAS_RUNTIME_ERROR_INVALID_PARAMS, atlas_runtime_disable_for_context(runtime, ctx), "was not enabled");
    at = stats_of(runtime);
    EXPECT(at.contexts == 0 && at.index_memory == 0);
    steps(ctx, STEPS, true);
    EXPECT(stats_of(runtime).graphs == at.graphs);
    EXPECT(memcmp(exact, logits, sizeof(float) * (size_t)n_vocab) == 0);
}

static void speed(atlas_runtime_ctx* runtime, struct llama_context* ctx) {
    WORKS(atlas_runtime_reset_stats(runtime));
    atlas_runtime_stats at = stats_of(runtime);
    EXPECT(at.graphs == 0 && at.speedup_samples == 0 && at.average_speedup == 1);
    WORKS(atlas_runtime_enable_for_context(runtime, ctx));
    for (int round = 0;
         round < 20 &&
         (at.speedup_samples < 6 || module_of(runtime, "weights").samples == 0 || at.sampling_share > 0.0055f ||
          module_of(runtime, "sparse-attention").samples < 3 || module_of(runtime, "sparse-attention").samples == 0);
         ++round) {
        steps(ctx, MANY_STEPS, round == 0);
        at = stats_of(runtime);
    }
    printf("speedup %.2f over %llu samples, at %.3f %% of %.2f s; sparse attention %.2f (%llu), weights %.2f (%llu)\n",
           (double)at.average_speedup, (unsigned long long)at.speedup_samples, 100 * (double)at.sampling_share,
           at.compute_seconds, (double)module_of(runtime, "sparse-attention").performance_gain,
           (unsigned long long)module_of(runtime, "sparse-attention").samples,
           (double)module_of(runtime, "weights").performance_gain,
           (unsigned long long)module_of(runtime, "weights").samples);
    EXPECT(at.speedup_samples >= 6 && at.average_speedup > 0);
    EXPECT(at.sampling_share <= 0.0055f); /* the last sample is paid for by what follows it */
    EXPECT(module_of(runtime, "sparse-attention").samples > 0 && module_of(runtime, "weights").samples > 0);
    WORKS(atlas_runtime_disable_for_context(runtime, ctx));
}

static void pool(atlas_runtime_ctx* runtime, struct llama_context* ctx) {
    const size_t used = atlas_runtime_get_pool_usage(runtime);
    EXPECT(used > (1 << 20) && used == stats_of(runtime).pool_used);
    EXPECT(atlas_runtime_get_pool_capacity(runtime) == 256u << 20);
    WORKS(atlas_runtime_resize_pool(runtime, 64 << 20));
    EXPECT(atlas_runtime_get_pool_capacity(runtime) == 64 << 20 && stats_of(runtime).pool_capacity == 64 << 20);
    FAILS(ATLAS_RUNTIME_ERROR_POOL_EXHAUSTED, atlas_runtime_resize_pool(runtime, 1 << 20),
          "nothing can leave memory without ATLAS_KV_DISK");
    EXPECT(atlas_runtime_get_pool_capacity(runtime) == 64 << 20 && atlas_runtime_get_pool_usage(runtime) == used);

    /* What is freed makes room; what does not fit into the pool is refused, and the program goes on. */
    llama_memory_clear(llama_get_memory(ctx), true);
    const size_t rest = atlas_runtime_get_pool_usage(runtime);
    EXPECT(rest < used);
    WORKS(atlas_runtime_resize_pool(runtime, rest + (1 << 20)));
    decode(ctx, 0, 64);
    EXPECT(llama_decode(ctx, llama_batch_get_one(tokens, BATCH)) != 0 ||
           llama_decode(ctx, llama_batch_get_one(tokens, BATCH)) != 0);
    EXPECT(atlas_runtime_get_pool_usage(runtime) <= rest + (1 << 20));
    WORKS(atlas_runtime_resize_pool(runtime, 0));
    EXPECT(atlas_runtime_get_pool_capacity(runtime) == 0);
    steps(ctx, STEPS, true);
}

static void levels(const struct llama_model* model) {
    static const struct {
        float level, sparsity;
        bool sparse, weights, memory, leaves_out;
    } presets[] = {{0.5f, 0.5f, false, false, false, false},
                   {1.0f, 0.5f, true, true, false, false},
                   {1.5f, 0.5f, true, true, false, false},
                   {2.0f, 0.1f, true, true, true, false},
                   {2.0f, 0.7f, true, true, true, true}};
    for (size_t i = 0; i < sizeof presets / sizeof *presets; ++i) {
        atlas_runtime_params params = atlas_runtime_default_params();
        params.optimization_level = presets[i].level;
        params.sparsity_threshold = presets[i].sparsity;
        atlas_runtime_ctx* runtime = NULL;
        WORKS(atlas_runtime_init(&runtime, model, &params));
        EXPECT(module_of(runtime, "exact-attention").is_active);
        EXPECT(module_of(runtime, "sparse-attention").is_active == presets[i].sparse);
        EXPECT(module_of(runtime, "weights").is_active == presets[i].weights);
        EXPECT(module_of(runtime, "atlas-memory").is_active == presets[i].memory);
        EXPECT(module_of(runtime, "activation-sparsity").is_active == presets[i].leaves_out);
        atlas_runtime_cleanup(runtime);
    }
}

static void quiet(enum ggml_log_level level, const char* text, void* data) { (void)level, (void)text, (void)data; }

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    llama_log_set(quiet, NULL);
    ggml_backend_load_all();
    if (!ggml_backend_load(atlas_library_path())) return 3;
    struct llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
    FILE* file = fopen(argv[2], "rb");
    static char text[1 << 15];
    const size_t bytes = file ? fread(text, 1, sizeof text, file) : 0;
    if (!model || bytes == 0) return 4;
    fclose(file);
    const struct llama_vocab* vocab = llama_model_get_vocab(model);
    n_vocab = llama_vocab_n_tokens(vocab);
    int n = llama_tokenize(vocab, text, (int32_t)bytes, tokens, TOKENS + MANY_STEPS, true, false);
    if (n < 0) n = TOKENS + MANY_STEPS; /* the text has more; what fits was written */
    for (int i = n; n > 0 && i < TOKENS + MANY_STEPS; ++i) tokens[i] = tokens[i - n];
    logits = malloc(sizeof(float) * (size_t)n_vocab);
    exact = malloc(sizeof(float) * (size_t)n_vocab);
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = TOKENS + MANY_STEPS;
    params.n_batch = params.n_ubatch = BATCH;
    params.n_threads = params.n_threads_batch = 1; /* beside other tests, two threads mostly wait for each other */
    struct llama_context* ctx = llama_init_from_model(model, params);
    if (!ctx || !logits || !exact) return 5;

    levels(model);
    atlas_runtime_ctx* runtime = NULL;
    WORKS(atlas_runtime_init(&runtime, model, NULL));
    modules(runtime, ctx);
    speed(runtime, ctx);
    pool(runtime, ctx);
    atlas_runtime_cleanup(runtime);
    /* Its pool went with it. */
    WORKS(atlas_runtime_init(&runtime, model, NULL));
    EXPECT(atlas_runtime_get_pool_capacity(runtime) == 256u << 20);
    atlas_runtime_cleanup(runtime);

    const float in_c = mission_in_c(model, ctx, few_steps);
    const float in_cpp = mission_in_cpp(model, ctx, few_steps);
    printf("the promised calls: speedup %.2f from C, %.2f from C++\n", (double)in_c, (double)in_cpp);
    EXPECT(in_c > 0 && in_cpp > 0);
    llama_free(ctx);
    llama_model_free(model);
    free(logits);
    free(exact);
    return 0;
}
