#pragma once

#include <ggml-backend.h>

#include <vector>

/** What a test hands out as llama_context: the backends that a real one would synchronise. */
struct llama_context {
    std::vector<ggml_backend_t> backends;
};
