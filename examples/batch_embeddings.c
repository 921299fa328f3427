/*
 * Embeddings of many texts, several in each batch, and which of them are closest to the first: mean pooling over a language model.
 *
 *   batch_embeddings MODEL TEXT TEXT…
 */
#include <math.h>

#include "common.h"

enum { TEXTS_AT_ONCE = 8, MOST_TOKENS = 512 };

int main(int argc, char** argv) {
    if (argc < 3) fail("usage", "batch_embeddings MODEL TEXT TEXT…");
    struct llama_model* model = load_model(argv[1]);
    atlas_runtime_ctx* runtime = make_runtime(model, 256);
    struct llama_context_params params = llama_context_default_params();
    params.embeddings = true;
    params.pooling_type = LLAMA_POOLING_TYPE_MEAN;
    params.n_seq_max = TEXTS_AT_ONCE;
    params.n_ctx = params.n_batch = params.n_ubatch = TEXTS_AT_ONCE * MOST_TOKENS;
    struct llama_context* ctx = llama_init_from_model(model, params);
    if (!ctx) fail(argv[1], "no context");
    check(atlas_runtime_enable_for_context(runtime, ctx));

    const int n_texts = argc - 2;
    const int width = llama_model_n_embd(model);
    float* all = malloc(sizeof *all * (size_t)(n_texts * width));
    struct llama_batch batch = llama_batch_init(TEXTS_AT_ONCE * MOST_TOKENS, 0, 1);
    if (!all) fail("batch_embeddings", "out of memory");
    for (int first = 0; first < n_texts; first += TEXTS_AT_ONCE) {
        const int n = n_texts - first < TEXTS_AT_ONCE ? n_texts - first : TEXTS_AT_ONCE;
        llama_memory_clear(llama_get_memory(ctx), true);
        batch.n_tokens = 0;
        for (int i = 0; i < n; ++i) {
            int32_t count = 0;
            llama_token* tokens = tokens_of(model, argv[2 + first + i], true, &count);
            for (int32_t t = 0; t < count && t < MOST_TOKENS; ++t) {
                const int32_t at = batch.n_tokens++;
                batch.token[at] = tokens[t];
                batch.pos[at] = t;
                batch.n_seq_id[at] = 1;
                batch.seq_id[at][0] = i;
                batch.logits[at] = true;
            }
            free(tokens);
        }
        if (llama_decode(ctx, batch) != 0) fail("llama_decode", "failed");
        for (int i = 0; i < n; ++i) {
            const float* from = llama_get_embeddings_seq(ctx, i);
            if (!from) fail("llama_get_embeddings_seq", "no embedding");
            float* to = all + (size_t)(first + i) * (size_t)width;
            double length = 0;
            for (int d = 0; d < width; ++d) length += (double)from[d] * (double)from[d];
            for (int d = 0; d < width; ++d) to[d] = from[d] / (float)sqrt(length);
        }
    }
    for (int i = 0; i < n_texts; ++i) {
        double likeness = 0;
        for (int d = 0; d < width; ++d) likeness += (double)all[d] * (double)all[(size_t)i * (size_t)width + (size_t)d];
        printf("%.4f  %s\n", likeness, argv[2 + i]);
    }
    print_stats(runtime);
    llama_batch_free(batch);
    free(all);
    llama_free(ctx);
    atlas_runtime_cleanup(runtime);
    llama_model_free(model);
    return 0;
}
