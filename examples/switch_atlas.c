/*
 * Continues a text three times from the same KV cache: with Atlas off, on, and off again, and prints what each run wrote, its speed and Atlas's statistics.
 *
 *   switch_atlas MODEL TEXT-FILE [TOKENS-OF-TEXT [TOKENS-TO-WRITE]]
 *
 * Contexts shorter than ATLAS_THRESHOLD (4096 keys unless set) are exact even when on. The exit status is 0 when both runs that were off wrote the same.
 */
#include <atlas/llama-atlas.h>
#include <ggml-backend.h>
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 512, MOST_WRITTEN = 512 };

static void fail(const char* what, const char* detail) {
    fprintf(stderr, "switch_atlas: %s: %s\n", what, detail);
    exit(1);
}

static void check(enum atlas_status status) {
    if (status != ATLAS_OK) fail("Atlas", atlas_last_error());
}

static char* read_file(const char* path) {
    FILE* file = fopen(path, "rb");
    if (!file) fail(path, "cannot be opened");
    fseek(file, 0, SEEK_END);
    const long size = ftell(file);
    rewind(file);
    char* text = size >= 0 ? malloc((size_t)size + 1) : NULL;
    if (!text || fread(text, 1, (size_t)size, file) != (size_t)size) fail(path, "cannot be read");
    text[size] = '\0';
    fclose(file);
    return text;
}

static void decode(struct llama_context* ctx, llama_token* tokens, int32_t count) {
    for (int32_t done = 0; done < count; done += BATCH) {
        const int32_t part = count - done < BATCH ? count - done : BATCH;
        if (llama_decode(ctx, llama_batch_get_one(tokens + done, part)) != 0) fail("llama_decode", "failed");
    }
}

static llama_token most_likely(struct llama_context* ctx, const struct llama_vocab* vocab) {
    const float* logits = llama_get_logits_ith(ctx, -1);
    llama_token best = 0;
    for (llama_token i = 1; i < llama_vocab_n_tokens(vocab); ++i) {
        if (logits[i] > logits[best]) best = i;
    }
    return best;
}

/* Writes `n` tokens after the first `n_text` of the cache; the cache keeps the text alone. The last token of the text is decoded again for its logits. */
static void write_on(struct llama_context* ctx, const struct llama_vocab* vocab, llama_token last, int32_t n_text,
                     int32_t n, llama_token* written) {
    llama_memory_t memory = llama_get_memory(ctx);
    if (!llama_memory_seq_rm(memory, 0, n_text - 1, -1))
        fail("llama_memory_seq_rm", "this model cannot forget a part of its text");
    decode(ctx, &last, 1);
    const int64_t start = llama_time_us();
    for (int32_t i = 0; i < n; ++i) {
        written[i] = most_likely(ctx, vocab);
        decode(ctx, &written[i], 1);
    }
    llama_synchronize(ctx);
    const double seconds = (double)(llama_time_us() - start) * 1e-6;
    char line[8 * MOST_WRITTEN];
    const int32_t length = llama_detokenize(vocab, written, n, line, sizeof line - 1, false, true);
    line[length > 0 ? length : 0] = '\0';
    for (char* c = line; *c; ++c) {
        if (*c == '\n') *c = ' ';
    }
    printf("  %.1f tokens/s: %s\n", n / seconds, line);
}

static void print_stats(struct llama_context* ctx) {
    struct llama_atlas_stats stats = {.size = sizeof stats};
    check(llama_get_atlas_stats(ctx, &stats));
    printf("  calls %llu, estimated %llu; of %.0f visible keys %.0f read, softmax mass read %.4f\n",
           (unsigned long long)stats.attention_calls, (unsigned long long)stats.estimated_calls, stats.visible_keys,
           stats.exact_keys, stats.retained_mass);
    printf(
        "  memory_usage_mb %.2f, window_fill_ratio %.2f, optimization_loss %.4g (without memory %.4g), "
        "muon_iterations_completed %llu, "
        "cache_hit_ratio %.2f, memories %llu, blend ratio in use %.3f of %.3f\n",
        stats.memory_usage_mb, stats.window_fill_ratio, stats.optimization_loss, stats.optimization_loss_without,
        (unsigned long long)stats.muon_iterations_completed, stats.cache_hit_ratio, (unsigned long long)stats.memories,
        stats.blend_ratio_in_use, stats.blend_ratio);
}

static void quiet(enum ggml_log_level level, const char* text, void* data) {
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

int main(int argc, char** argv) {
    if (argc < 3) fail("usage", "switch_atlas MODEL TEXT-FILE [TOKENS-OF-TEXT [TOKENS-TO-WRITE]]");
    int32_t n_text = argc > 3 ? atoi(argv[3]) : 6000;
    const int32_t n_write = argc > 4 ? atoi(argv[4]) : 32;
    if (n_text < 2 || n_write < 1 || n_write > MOST_WRITTEN) fail("tokens", "at least 2 of text, 1 to 512 to write");

    llama_log_set(quiet, NULL);
    ggml_backend_load_all(); /* loads Atlas too where GGML_BACKEND_PATH names it */
    if (!ggml_backend_reg_by_name("ATLAS") && !ggml_backend_load(atlas_library_path()))
        fail(atlas_library_path(), "is no backend for this host");

    struct llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) fail(argv[1], "cannot be loaded");
    const struct llama_vocab* vocab = llama_model_get_vocab(model);
    char* text = read_file(argv[2]);
    const size_t bytes = strlen(text);
    llama_token* tokens = malloc((bytes + 16) * sizeof *tokens);
    if (!tokens) fail(argv[2], "out of memory");
    const int32_t n_all = llama_tokenize(vocab, text, (int32_t)bytes, tokens, (int32_t)bytes + 16, true, false);
    if (n_all < 2) fail(argv[2], "too short");
    if (n_text > n_all) n_text = n_all;

    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = (uint32_t)(n_text + n_write);
    params.n_batch = BATCH;
    struct llama_context* ctx = llama_init_from_model(model, params);
    if (!ctx) fail(argv[1], "no context");
    printf("%d tokens of text; learned memories for this model: %s\n", n_text,
           llama_model_has_atlas(model) ? "yes" : "no");

    check(llama_set_atlas_enabled(ctx, false));
    decode(ctx, tokens, n_text);
    llama_token written[3][MOST_WRITTEN];
    for (int run = 0; run < 3; ++run) {
        const bool on = run == 1;
        check(llama_set_atlas_enabled(ctx, on));
        printf("Atlas %s\n", on ? "on" : "off");
        write_on(ctx, vocab, tokens[n_text - 1], n_text, n_write, written[run]);
        print_stats(ctx);
    }
    const bool same = memcmp(written[0], written[2], (size_t)n_write * sizeof written[0][0]) == 0;
    printf("Both runs without Atlas wrote %s.\n", same ? "the same" : "DIFFERENT TEXTS");

    llama_free(ctx);
    llama_model_free(model);
    free(tokens);
    free(text);
    return same ? 0 : 1;
}
