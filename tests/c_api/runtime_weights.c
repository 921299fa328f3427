/*
 * The modules of weights that the process prepares while it loads a model: streaming (ATLAS_WEIGHTS_RAM) or hybrid-weights (ATLAS_WEIGHT_FORMAT), which the
 * environment asks for. They are loaded from the beginning, hold memory, come and go between two tokens, and what then runs is another thing.
 *
 *   runtime_weights MODEL MODULE
 */
#include <atlas/atlas-runtime.h>
#include <ggml-backend.h>
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 24 };

#define EXPECT(right) expect((right), #right, __LINE__)
#define WORKS(call) EXPECT((call) == ATLAS_RUNTIME_SUCCESS)

static void expect(bool right, const char* what, int line) {
    if (right) return;
    fprintf(stderr, "runtime_weights.c:%d: %s (last error: %s)\n", line, what, atlas_runtime_get_last_error(NULL));
    exit(1);
}

static void quiet(enum ggml_log_level level, const char* text, void* data) { (void)level, (void)text, (void)data; }

static atlas_module_info module_of(atlas_runtime_ctx* runtime, const char* name, bool active_only) {
    static const atlas_module_info none;
    atlas_module_info infos[16];
    size_t count = 16;
    WORKS((active_only ? atlas_runtime_get_active_modules : atlas_runtime_get_modules)(runtime, infos, &count));
    for (size_t i = 0; i < count; ++i) {
        if (strcmp(infos[i].name, name) == 0) return infos[i];
    }
    return none;
}

/* A few tokens at once and one by one; the logits of the last. */
static float* decode(struct llama_context* ctx, int n_vocab) {
    llama_token tokens[TOKENS];
    for (int i = 0; i < TOKENS; ++i) tokens[i] = (llama_token)(3 + 7 * i % 200);
    llama_memory_clear(llama_get_memory(ctx), true);
    EXPECT(llama_decode(ctx, llama_batch_get_one(tokens, TOKENS / 2)) == 0);
    for (int i = TOKENS / 2; i < TOKENS; ++i) EXPECT(llama_decode(ctx, llama_batch_get_one(&tokens[i], 1)) == 0);
    float* logits = malloc(sizeof(float) * (size_t)n_vocab);
    EXPECT(logits != NULL);
    memcpy(logits, llama_get_logits_ith(ctx, -1), sizeof(float) * (size_t)n_vocab);
    return logits;
}

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    const char* name = argv[2];
    const bool streaming = strcmp(name, "streaming") == 0;
    llama_log_set(quiet, NULL);
    ggml_backend_load_all();
    if (!ggml_backend_load(atlas_library_path())) return 3;
    struct llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) return 4;
    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = 256;
    params.n_threads = params.n_threads_batch = 1;
    struct llama_context* ctx = llama_init_from_model(model, params);
    if (!ctx) return 5;

    atlas_runtime_ctx* runtime = NULL;
    WORKS(atlas_runtime_init(&runtime, model, NULL));
    WORKS(atlas_runtime_enable_for_context(runtime, ctx));
    EXPECT(module_of(runtime, name, true).is_active && module_of(runtime, name, true).is_available);
    const char* const other = streaming ? "hybrid-weights" : "streaming";
    EXPECT(!module_of(runtime, other, false).is_available && module_of(runtime, other, true).name == NULL);
    EXPECT(atlas_runtime_load_module(runtime, other) == ATLAS_RUNTIME_ERROR_MODULE_NOT_FOUND);
    EXPECT(strstr(atlas_runtime_get_last_error(NULL), streaming ? "ATLAS_WEIGHT_FORMAT" : "ATLAS_WEIGHTS_RAM") != NULL);

    float* const with = decode(ctx, n_vocab);
    atlas_module_info at = module_of(runtime, name, true);
    EXPECT(at.calls > 0 && at.memory_usage > 0);
    printf("%s: %llu products, %zu bytes\n", name, (unsigned long long)at.calls, at.memory_usage);

    WORKS(atlas_runtime_unload_module(runtime, name));
    EXPECT(module_of(runtime, name, true).name == NULL);
    float* const without = decode(ctx, n_vocab);
    atlas_module_info now = module_of(runtime, name, false);
    EXPECT(now.calls == at.calls && !now.is_active && now.is_available);
    /* What is streamed is the same; what was rounded is not. */
    const size_t bytes = sizeof(float) * (size_t)n_vocab;
    EXPECT((memcmp(with, without, bytes) == 0) == streaming);

    WORKS(atlas_runtime_load_module(runtime, name));
    float* const again = decode(ctx, n_vocab);
    EXPECT(module_of(runtime, name, true).calls > at.calls);
    EXPECT(memcmp(with, again, bytes) == 0);

    /* A context that follows nobody has what the process was asked for. */
    WORKS(atlas_runtime_unload_module(runtime, name));
    WORKS(atlas_runtime_disable_for_context(runtime, ctx));
    float* const alone = decode(ctx, n_vocab);
    EXPECT(memcmp(with, alone, bytes) == 0);
    float* const all[] = {with, without, again, alone};
    for (size_t i = 0; i < sizeof all / sizeof *all; ++i) free(all[i]);
    atlas_runtime_cleanup(runtime);
    llama_free(ctx);
    llama_model_free(model);
    return 0;
}
