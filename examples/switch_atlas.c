/*
 * Continues a text three times from the same KV cache: with Atlas off, on, and off again, and prints what each run wrote, its speed and Atlas's statistics.
 *
 *   switch_atlas MODEL TEXT-FILE [TOKENS-OF-TEXT [TOKENS-TO-WRITE]]
 *
 * Contexts shorter than ATLAS_THRESHOLD (4096 keys unless set) are exact even when on. The exit status is 0 when both runs that were off wrote the same.
 */
#include <atlas/llama-atlas.h>

#include "common.h"

enum { MOST_WRITTEN = 512 };

static void check_status(enum atlas_status status) {
    if (status != ATLAS_OK) fail("Atlas", atlas_last_error());
}

/* Writes `n` tokens after the first `n_text` of the cache; the cache keeps the text alone. The last token of the text is decoded again for its logits. */
static void write_after(struct llama_context* ctx, const struct llama_vocab* vocab, llama_token last, int32_t n_text,
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

static void print_context(struct llama_context* ctx) {
    struct llama_atlas_stats stats = {.size = sizeof stats};
    check_status(llama_get_atlas_stats(ctx, &stats));
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

int main(int argc, char** argv) {
    if (argc < 3) fail("usage", "switch_atlas MODEL TEXT-FILE [TOKENS-OF-TEXT [TOKENS-TO-WRITE]]");
    int32_t n_text = argc > 3 ? atoi(argv[3]) : 6000;
    const int32_t n_write = argc > 4 ? atoi(argv[4]) : 32;
    if (n_text < 2 || n_write < 1 || n_write > MOST_WRITTEN) fail("tokens", "at least 2 of text, 1 to 512 to write");

    struct llama_model* model = load_model(argv[1]);
    const struct llama_vocab* vocab = llama_model_get_vocab(model);
    char* text = read_file(argv[2]);
    int32_t n_all = 0;
    llama_token* tokens = tokens_of(model, text, true, &n_all);
    if (n_all < 2) fail(argv[2], "too short");
    if (n_text > n_all) n_text = n_all;

    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = (uint32_t)(n_text + n_write);
    struct llama_context* ctx = llama_init_from_model(model, params);
    if (!ctx) fail(argv[1], "no context");
    printf("%d tokens of text; learned memories for this model: %s\n", n_text,
           llama_model_has_atlas(model) ? "yes" : "no");

    check_status(llama_set_atlas_enabled(ctx, false));
    decode(ctx, tokens, n_text);
    llama_token written[3][MOST_WRITTEN];
    for (int run = 0; run < 3; ++run) {
        const bool on = run == 1;
        check_status(llama_set_atlas_enabled(ctx, on));
        printf("Atlas %s\n", on ? "on" : "off");
        write_after(ctx, vocab, tokens[n_text - 1], n_text, n_write, written[run]);
        print_context(ctx);
    }
    const bool same = memcmp(written[0], written[2], (size_t)n_write * sizeof written[0][0]) == 0;
    printf("Both runs without Atlas wrote %s.\n", same ? "the same" : "DIFFERENT TEXTS");

    llama_free(ctx);
    llama_model_free(model);
    free(tokens);
    free(text);
    return same ? 0 : 1;
}
