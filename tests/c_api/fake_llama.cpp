#include "fake_llama.h"

#include <cstdint>
#include <cstdio>
#include <cstring>

// The part of libllama that Atlas looks up in a process.
#define EXPORTED extern "C" __attribute__((visibility("default")))

struct llama_model;

EXPORTED void llama_synchronize(llama_context* ctx) {
    for (ggml_backend_t backend : ctx->backends) ggml_backend_synchronize(backend);
}

EXPORTED int32_t llama_model_meta_val_str(const llama_model*, const char* key, char* text, size_t size) {
    if (std::strcmp(key, "general.architecture") != 0) return -1;
    return std::snprintf(text, size, "llama");
}

EXPORTED uint64_t llama_model_n_params(const llama_model*) { return 1000; }
