/* every_function.c with llama.cpp, a model and a text: real_host MODEL OUTPUT TEXT-FILE */
#include <atlas/atlas.h>
#include <ggml-backend.h>
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>

#include "every_function.h"

enum { TOKENS = 1024, BATCH = 256 };

static llama_token tokens[3 * TOKENS];
static int documents = 0;

static bool document(struct host* host) {
    llama_memory_clear(llama_get_memory(host->ctx), false);
    llama_token* from = tokens + documents++ * TOKENS;
    for (int done = 0; done < TOKENS; done += BATCH) {
        if (llama_decode(host->ctx, llama_batch_get_one(from + done, BATCH)) != 0) exit(7);
    }
    return true;
}

static void quiet(enum ggml_log_level level, const char* text, void* data) { (void)level, (void)text, (void)data; }

int main(int argc, char** argv) {
    if (argc != 4) return 2;
    llama_log_set(quiet, NULL);
    ggml_backend_load_all();
    if (!ggml_backend_load(atlas_library_path())) return 3;
    struct llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
    FILE* file = fopen(argv[3], "rb");
    static char text[1 << 15];
    const size_t bytes = file ? fread(text, 1, sizeof text, file) : 0;
    if (!model || bytes == 0) return 4;
    fclose(file);
    int n = llama_tokenize(llama_model_get_vocab(model), text, (int32_t)bytes, tokens, 3 * TOKENS, true, false);
    if (n < 0) n = 3 * TOKENS; /* the text has more; what fits was written */
    for (int i = n; n > 0 && i < 3 * TOKENS; ++i) tokens[i] = tokens[i - n];
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = TOKENS;
    params.n_batch = params.n_ubatch = BATCH;
    params.n_threads = params.n_threads_batch = 2;
    struct llama_context* ctx = llama_init_from_model(model, params);
    if (!ctx) return 5;
    struct host host = {ctx, model, argv[1], argv[2], document};
    use_every_function(&host);
    llama_free(ctx);
    llama_model_free(model);
    return 0;
}
