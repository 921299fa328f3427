/*
 * How fast a model reads a text and writes behind it: by llama.cpp alone, by Atlas exactly, and by Atlas with all modules of a level. The three take turns, and medians are
 * printed with their ratio to llama.cpp's, beside what the runtime itself measured while it ran.
 *
 *   benchmark MODEL TEXT-FILE [TOKENS-OF-TEXT [TOKENS-TO-WRITE [ROUNDS [LEVEL]]]]
 *
 * Sparse attention (level 1 and more) begins where a token sees more than ATLAS_THRESHOLD keys (4096 unless set).
 */
#include "common.h"

enum { WAYS = 3, MOST_ROUNDS = 99 };

struct way {
    const char* name;
    struct llama_context* ctx;
    atlas_runtime_ctx* runtime; /* NULL: llama.cpp alone */
    double read[MOST_ROUNDS], write[MOST_ROUNDS]; /* tokens per second */
};

/* A model that no device but the CPU gets anything of, as if Atlas were not there. */
static struct llama_model* load_for_host(const char* path) {
    static ggml_backend_dev_t none[] = {NULL};
    struct llama_model_params params = llama_model_default_params();
    params.devices = none;
    params.n_gpu_layers = 0;
    struct llama_model* model = llama_model_load_from_file(path, params);
    if (!model) fail(path, "cannot be loaded");
    return model;
}

static struct llama_context* make_context(struct llama_model* model, int32_t tokens) {
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = (uint32_t)tokens;
    if (getenv("OMP_NUM_THREADS")) params.n_threads = params.n_threads_batch = atoi(getenv("OMP_NUM_THREADS"));
    struct llama_context* ctx = llama_init_from_model(model, params);
    if (!ctx) fail("llama_init_from_model", "no context");
    return ctx;
}

static double rate_since(int64_t start, int32_t tokens) { return tokens * 1e6 / (double)(llama_time_us() - start); }

/* Every way writes the same tokens, those of the text, so that all do the same work. */
static void run(struct way* way, int round, llama_token* tokens, int32_t n_read, int32_t n_write) {
    llama_memory_clear(llama_get_memory(way->ctx), true);
    int64_t start = llama_time_us();
    decode(way->ctx, tokens, n_read);
    llama_synchronize(way->ctx);
    way->read[round] = rate_since(start, n_read);
    start = llama_time_us();
    for (int32_t i = 0; i < n_write; ++i) {
        decode(way->ctx, tokens + n_read + i, 1);
        llama_synchronize(way->ctx);
    }
    way->write[round] = rate_since(start, n_write);
}

static int by_size(const void* a, const void* b) {
    const double left = *(const double*)a, right = *(const double*)b;
    return (left > right) - (left < right);
}

static double median(const double* values, int count) {
    double sorted[MOST_ROUNDS];
    memcpy(sorted, values, sizeof(double) * (size_t)count);
    qsort(sorted, (size_t)count, sizeof *sorted, by_size);
    return count % 2 ? sorted[count / 2] : (sorted[count / 2 - 1] + sorted[count / 2]) / 2;
}

/* Median of the ratios within a round: what a round's machine took away, it took from both. */
static double ratio(const double* ours, const double* host, int count) {
    double ratios[MOST_ROUNDS];
    for (int i = 0; i < count; ++i) ratios[i] = ours[i] / host[i];
    return median(ratios, count);
}

int main(int argc, char** argv) {
    if (argc < 3) fail("usage", "benchmark MODEL TEXT-FILE [TOKENS-OF-TEXT [TOKENS-TO-WRITE [ROUNDS [LEVEL]]]]");
    int32_t n_read = argc > 3 ? atoi(argv[3]) : 512;
    const int32_t n_write = argc > 4 ? atoi(argv[4]) : 32;
    const int rounds = argc > 5 ? atoi(argv[5]) : 5;
    const float level = argc > 6 ? (float)atof(argv[6]) : 1.0f;
    if (n_read < 1 || n_write < 1 || rounds < 1 || rounds > MOST_ROUNDS) fail("numbers", "at least 1, 99 rounds at most");
    struct llama_model* model = load_model(argv[1]);
    struct llama_model* host_model = load_for_host(argv[1]);
    char* text = read_file(argv[2]);
    int32_t n_all = 0;
    llama_token* tokens = tokens_of(model, text, true, &n_all);
    if (n_all <= n_write) fail(argv[2], "is too short");
    if (n_read > n_all - n_write) n_read = n_all - n_write;

    static struct way ways[WAYS] = {{.name = "llama.cpp"}, {.name = "Atlas, exact"}, {.name = "Atlas, level"}};
    for (int i = 0; i < WAYS; ++i) {
        ways[i].ctx = make_context(i == 0 ? host_model : model, n_read + n_write + 1);
        if (i == 0) continue;
        atlas_runtime_params params = atlas_runtime_default_params();
        params.memory_pool_size = 0;
        params.optimization_level = level;
        check(atlas_runtime_init(&ways[i].runtime, model, &params));
        if (i == 1) check(atlas_runtime_unload_module(ways[i].runtime, "sparse-attention"));
        check(atlas_runtime_enable_for_context(ways[i].runtime, ways[i].ctx));
        /* Weights by Atlas in both, whatever the level. */
        const atlas_runtime_result loaded = atlas_runtime_load_module(ways[i].runtime, "weights");
        if (loaded != ATLAS_RUNTIME_SUCCESS) printf("%s\n", atlas_runtime_get_last_error(ways[i].runtime));
    }
    for (int i = 0; i < WAYS; ++i) run(&ways[i], 0, tokens, n_read, n_write); /* warms up, and is written over */
    for (int i = 1; i < WAYS; ++i) check(atlas_runtime_reset_stats(ways[i].runtime));
    for (int round = 0; round < rounds; ++round) {
        for (int i = 0; i < WAYS; ++i) run(&ways[i], round, tokens, n_read, n_write);
    }

    printf("%d tokens read, %d written, %d rounds; medians of tokens per second, of ratios, measured speed-up\n", n_read,
           n_write, rounds);
    printf("%-14s %9s %7s %9s %7s %9s\n", "", "read", "ratio", "write", "ratio", "measured");
    for (int i = 0; i < WAYS; ++i) {
        printf("%-14s %9.1f %6.2fx %9.1f %6.2fx", ways[i].name, median(ways[i].read, rounds),
               ratio(ways[i].read, ways[0].read, rounds), median(ways[i].write, rounds),
               ratio(ways[i].write, ways[0].write, rounds));
        if (ways[i].runtime) {
            atlas_runtime_stats stats;
            check(atlas_runtime_get_stats(ways[i].runtime, &stats));
            printf(" %8.2fx over %llu samples at %.2f %% of the time", (double)stats.average_speedup,
                   (unsigned long long)stats.speedup_samples, 100 * (double)stats.sampling_share);
        }
        printf("\n");
    }
    for (int i = 1; i < WAYS; ++i) {
        atlas_module_info modules[16];
        size_t count = sizeof modules / sizeof *modules;
        check(atlas_runtime_get_active_modules(ways[i].runtime, modules, &count));
        for (size_t m = 0; m < count; ++m)
            printf("  %s: %-19s %8llu calls, %6.1f MB, %5.2fx over %llu samples\n", ways[i].name, modules[m].name,
                   (unsigned long long)modules[m].calls, (double)modules[m].memory_usage / 1e6,
                   (double)modules[m].performance_gain, (unsigned long long)modules[m].samples);
    }
    for (int i = 0; i < WAYS; ++i) llama_free(ways[i].ctx);
    for (int i = 1; i < WAYS; ++i) atlas_runtime_cleanup(ways[i].runtime);
    llama_model_free(host_model);
    llama_model_free(model);
    free(tokens);
    free(text);
    return 0;
}
