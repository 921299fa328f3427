/* What the examples in C share: loading a model with Atlas, tokens, decoding, and a runtime. */
#ifndef EXAMPLES_COMMON_H
#define EXAMPLES_COMMON_H

#include <atlas/atlas-runtime.h>
#include <ggml-backend.h>
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void fail(const char* what, const char* detail) {
    fprintf(stderr, "%s: %s\n", what, detail);
    exit(1);
}

static inline void check(atlas_runtime_result result) {
    if (result != ATLAS_RUNTIME_SUCCESS) fail(atlas_runtime_error_string(result), atlas_runtime_get_last_error(NULL));
}

static inline char* read_file(const char* path) {
    FILE* file = fopen(path, "rb");
    if (!file) fail(path, "cannot be opened");
    fseek(file, 0, SEEK_END);
    const long size = ftell(file);
    rewind(file);
    char* text = size >= 0 ? (char*)malloc((size_t)size + 1) : NULL;
    if (!text || fread(text, 1, (size_t)size, file) != (size_t)size) fail(path, "cannot be read");
    text[size] = '\0';
    fclose(file);
    return text;
}

static inline void quiet(enum ggml_log_level level, const char* text, void* data) {
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

/* Atlas has to be there before the model is loaded: by GGML_BACKEND_PATH, or by name. */
static inline struct llama_model* load_model(const char* path) {
    llama_log_set(quiet, NULL);
    ggml_backend_load_all();
    if (!ggml_backend_reg_by_name("ATLAS") && !ggml_backend_load(atlas_library_path()))
        fail(atlas_library_path(), "is no backend for this host");
    struct llama_model* model = llama_model_load_from_file(path, llama_model_default_params());
    if (!model) fail(path, "cannot be loaded");
    return model;
}

/* The runtime of a model, which gets `megabytes` for caches, indexes and memories. */
static inline atlas_runtime_ctx* make_runtime(const struct llama_model* model, size_t megabytes) {
    atlas_runtime_params params = atlas_runtime_default_params();
    params.memory_pool_size = megabytes << 20;
    atlas_runtime_ctx* runtime = NULL;
    check(atlas_runtime_init(&runtime, model, &params));
    return runtime;
}

/* Tokens of a text; the caller frees them. */
static inline llama_token* tokens_of(const struct llama_model* model, const char* text, bool special, int32_t* count) {
    const struct llama_vocab* vocab = llama_model_get_vocab(model);
    const int32_t bytes = (int32_t)strlen(text);
    llama_token* tokens = (llama_token*)malloc(sizeof *tokens * ((size_t)bytes + 16));
    *count = tokens ? llama_tokenize(vocab, text, bytes, tokens, bytes + 16, special, true) : -1;
    if (*count < 0) fail("llama_tokenize", "failed");
    return tokens;
}

static inline void decode(struct llama_context* ctx, llama_token* tokens, int32_t count) {
    const int32_t most = (int32_t)llama_n_batch(ctx);
    for (int32_t done = 0; done < count; done += most) {
        const int32_t part = count - done < most ? count - done : most;
        if (llama_decode(ctx, llama_batch_get_one(tokens + done, part)) != 0) fail("llama_decode", "failed");
    }
}

static inline llama_token most_likely(struct llama_context* ctx, const struct llama_vocab* vocab) {
    const float* logits = llama_get_logits_ith(ctx, -1);
    llama_token best = 0;
    for (llama_token i = 1; i < llama_vocab_n_tokens(vocab); ++i) {
        if (logits[i] > logits[best]) best = i;
    }
    return best;
}

/* Up to `most` tokens behind what was decoded, printed as they come. */
static inline void write_on(struct llama_context* ctx, const struct llama_model* model, int32_t most) {
    const struct llama_vocab* vocab = llama_model_get_vocab(model);
    for (int32_t i = 0; i < most; ++i) {
        llama_token token = most_likely(ctx, vocab);
        if (llama_vocab_is_eog(vocab, token)) break;
        char piece[128];
        const int32_t length = llama_token_to_piece(vocab, token, piece, sizeof piece, 0, true);
        if (length > 0) fwrite(piece, 1, (size_t)length, stdout);
        fflush(stdout);
        decode(ctx, &token, 1);
    }
    printf("\n");
}

static inline void print_stats(const atlas_runtime_ctx* runtime) {
    atlas_runtime_stats stats;
    check(atlas_runtime_get_stats(runtime, &stats));
    printf(
        "[%u modules, %.1f of %.1f MB, %.2fx as fast as the host over %llu samples, %llu calls of attention, %llu of "
        "them estimated]\n",
        stats.modules_loaded, (double)stats.pool_used / 1e6, (double)stats.pool_capacity / 1e6,
        (double)stats.average_speedup, (unsigned long long)stats.speedup_samples,
        (unsigned long long)stats.attention_calls, (unsigned long long)stats.estimated_calls);
}

#endif
