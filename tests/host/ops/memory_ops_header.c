/* The header is C11, and its defaults can be filled and changed from C. */
#include <atlas/memory_ops.h>

size_t memory_ops_c_sizes(void) {
    struct atlas_memory_params params = {0};
    params.kind = ATLAS_MEMORY_DEEP;
    struct atlas_memory_stats stats = {0};
    return sizeof params + sizeof stats + (size_t)params.kind;
}
