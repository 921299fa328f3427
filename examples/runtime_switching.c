/*
 * Loads and unloads modules between the tokens of one text, and shows what then runs and how fast: the host's own operations, Atlas's exact ones, and sparse attention.
 *
 *   runtime_switching MODEL TEXT-FILE [TOKENS-OF-TEXT [TOKENS-TO-WRITE]]
 *
 * Sparse attention begins where a token sees more than ATLAS_THRESHOLD keys (4096 unless set).
 */
#include "common.h"

/* Reads the last token of the text again, writes some, and forgets them. */
static void try_modules(const char* what, atlas_runtime_ctx* runtime, struct llama_context* ctx,
                        const struct llama_model* model, llama_token* last, int32_t n_text, int32_t n_write) {
    llama_memory_seq_rm(llama_get_memory(ctx), 0, n_text - 1, -1);
    check(atlas_runtime_reset_stats(runtime));
    decode(ctx, last, 1);
    const int64_t start = llama_time_us();
    printf("%s: ", what);
    write_on(ctx, model, n_write);
    const double seconds = (double)(llama_time_us() - start) * 1e-6;
    atlas_runtime_stats stats;
    check(atlas_runtime_get_stats(runtime, &stats));
    printf(
        "  %.1f tokens/s; attention: %llu calls by Atlas (%llu estimated), %llu by the host; products: %llu by Atlas, "
        "%llu by the host\n",
        n_write / seconds, (unsigned long long)stats.attention_calls, (unsigned long long)stats.estimated_calls,
        (unsigned long long)stats.attention_by_host, (unsigned long long)stats.products,
        (unsigned long long)stats.products_by_host);
}

int main(int argc, char** argv) {
    if (argc < 3) fail("usage", "runtime_switching MODEL TEXT-FILE [TOKENS-OF-TEXT [TOKENS-TO-WRITE]]");
    int32_t n_text = argc > 3 ? atoi(argv[3]) : 6000;
    const int32_t n_write = argc > 4 ? atoi(argv[4]) : 32;
    struct llama_model* model = load_model(argv[1]);
    char* text = read_file(argv[2]);
    int32_t n_all = 0;
    llama_token* tokens = tokens_of(model, text, true, &n_all);
    if (n_text > n_all) n_text = n_all;
    if (n_text < 2 || n_write < 1) fail("tokens", "at least 2 of text, 1 to write");
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = (uint32_t)(n_text + n_write + 1);
    struct llama_context* ctx = llama_init_from_model(model, params);
    if (!ctx) fail(argv[1], "no context");

    atlas_runtime_ctx* runtime = make_runtime(model, 0);
    atlas_arch_config config;
    check(atlas_runtime_get_model_config(runtime, &config));
    printf("%s: %d layers, %d query and %d KV heads; %d tokens of text\n", config.name, config.layers, config.heads,
           config.kv_heads, n_text);
    check(atlas_runtime_enable_for_context(runtime, ctx));
    decode(ctx, tokens, n_text);
    llama_token* last = &tokens[n_text - 1];
    try_modules("sparse", runtime, ctx, model, last, n_text, n_write);
    check(atlas_runtime_unload_module(runtime, "sparse-attention"));
    try_modules("exact", runtime, ctx, model, last, n_text, n_write);
    check(atlas_runtime_unload_module(runtime, "exact-attention"));
    check(atlas_runtime_unload_module(runtime, "weights"));
    try_modules("host", runtime, ctx, model, last, n_text, n_write);
    check(atlas_runtime_load_module(runtime, "exact-attention"));
    check(atlas_runtime_load_module(runtime, "weights"));
    check(atlas_runtime_load_module(runtime, "sparse-attention"));
    try_modules("all again", runtime, ctx, model, last, n_text, n_write);

    atlas_module_info modules[16];
    size_t count = sizeof modules / sizeof *modules;
    check(atlas_runtime_get_modules(runtime, modules, &count));
    for (size_t i = 0; i < count; ++i)
        printf("  %-17s %-6s %s\n", modules[i].name, modules[i].is_active ? "loaded" : "", modules[i].description);
    llama_free(ctx);
    atlas_runtime_cleanup(runtime);
    llama_model_free(model);
    free(tokens);
    free(text);
    return 0;
}
