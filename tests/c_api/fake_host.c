/* every_function.c without libllama: this program exports what Atlas looks up in a process. fake_host MODEL OUTPUT */
#include <atlas/atlas.h>
#include <ggml-backend.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "every_function.h"

#define EXPORTED __attribute__((visibility("default")))

struct llama_context {
    ggml_backend_t backend;
};
struct llama_model {
    uint64_t n_params;
};

EXPORTED void llama_synchronize(struct llama_context* ctx);
EXPORTED int32_t llama_model_meta_val_str(const struct llama_model* model, const char* key, char* text, size_t size);
EXPORTED uint64_t llama_model_n_params(const struct llama_model* model);

void llama_synchronize(struct llama_context* ctx) { ggml_backend_synchronize(ctx->backend); }

int32_t llama_model_meta_val_str(const struct llama_model* model, const char* key, char* text, size_t size) {
    (void)model;
    return strcmp(key, "general.architecture") == 0 ? (int32_t)snprintf(text, size, "llama") : -1;
}

uint64_t llama_model_n_params(const struct llama_model* model) { return model->n_params; }

static bool document(struct host* host) {
    (void)host;
    return false;
}

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    ggml_backend_load_all();
    if (!ggml_backend_load(atlas_library_path())) return 3;
    struct llama_context ctx = {ggml_backend_dev_init(ggml_backend_dev_by_name("ATLAS0"), NULL)};
    const struct llama_model model = {1000};
    if (!ctx.backend) return 4;
    struct host host = {&ctx, &model, argv[1], argv[2], document};
    use_every_function(&host);
    ggml_backend_free(ctx.backend);
    return 0;
}
