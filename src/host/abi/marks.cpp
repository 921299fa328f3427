#include "host/abi/marks.h"

#include <cstddef>
#include <vector>

namespace atlas::host {

bool host_marks_nodes() {
    static const bool marks = [] {
        std::vector<std::byte> memory(4 * ggml_tensor_overhead() + ggml_graph_overhead_custom(4, false));
        ggml_context* context = ggml_init({memory.size(), memory.data(), true});
        if (!context) return true;
        ggml_tensor* node = ggml_dup(context, ggml_new_tensor_1d(context, GGML_TYPE_F32, 1));
        ggml_build_forward_expand(ggml_new_graph_custom(context, 4, false), node);
        const bool marked = (node->flags & GGML_TENSOR_FLAG_COMPUTE) != 0;
        ggml_free(context);
        return marked;
    }();
    return marks;
}

}  // namespace atlas::host
