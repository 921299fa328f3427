/*
 * A chat in the terminal, with Atlas's runtime around llama.cpp: reads lines from standard input, answers each, and says at the end what Atlas did.
 *
 *   chat MODEL [TOKENS-PER-ANSWER]
 *
 * The line /stats prints the statistics, /exact and /sparse switch sparse attention.
 */
#include "common.h"

/* The new part of the conversation, in the model's own template if it has one. The caller frees it. */
static char* turn_of(const struct llama_model* model, const char* line) {
    const char* template = llama_model_chat_template(model, NULL);
    const struct llama_chat_message message = {"user", line};
    const size_t room = 2 * strlen(line) + 1024;
    char* text = malloc(room);
    if (!text) fail("chat", "out of memory");
    int32_t length = template ? llama_chat_apply_template(template, &message, 1, true, text, (int32_t)room) : -1;
    if (length < 0 || (size_t)length >= room) length = snprintf(text, room, "User: %s\nAssistant:", line);
    text[length] = '\0';
    return text;
}

int main(int argc, char** argv) {
    if (argc < 2) fail("usage", "chat MODEL [TOKENS-PER-ANSWER]");
    const int32_t most = argc > 2 ? atoi(argv[2]) : 256;
    struct llama_model* model = load_model(argv[1]);
    atlas_runtime_ctx* runtime = make_runtime(model, 512);
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = 4096;
    struct llama_context* ctx = llama_init_from_model(model, params);
    if (!ctx) fail(argv[1], "no context");
    check(atlas_runtime_enable_for_context(runtime, ctx));

    char line[4096];
    bool first = true;
    while (printf("> "), fflush(stdout), fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = '\0';
        if (strcmp(line, "/stats") == 0) {
            print_stats(runtime);
        } else if (strcmp(line, "/exact") == 0) {
            check(atlas_runtime_unload_module(runtime, "sparse-attention"));
        } else if (strcmp(line, "/sparse") == 0) {
            check(atlas_runtime_load_module(runtime, "sparse-attention"));
        } else if (line[0]) {
            char* text = turn_of(model, line);
            int32_t count = 0;
            llama_token* tokens = tokens_of(model, text, first, &count);
            const llama_pos used = llama_memory_seq_pos_max(llama_get_memory(ctx), 0) + 1;
            if (used + count + most > (llama_pos)llama_n_ctx(ctx)) llama_memory_clear(llama_get_memory(ctx), false);
            decode(ctx, tokens, count);
            write_on(ctx, model, most);
            first = false;
            free(tokens);
            free(text);
        }
    }
    printf("\n");
    print_stats(runtime);
    llama_free(ctx);
    atlas_runtime_cleanup(runtime);
    llama_model_free(model);
    return 0;
}
