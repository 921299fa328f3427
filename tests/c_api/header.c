/* The header is C11, and a caller's part of it works from C. */
#include <atlas/llama-atlas.h>

size_t llama_atlas_c_sizes(void);

size_t llama_atlas_c_sizes(void) {
    struct llama_atlas_stats stats = {.size = sizeof stats};
    stats.feature_type = LLAMA_ATLAS_FEATURE_POLYNOMIAL;
    return stats.size + (size_t)(LLAMA_ATLAS_OK == (enum llama_atlas_status)0) - 1;
}
