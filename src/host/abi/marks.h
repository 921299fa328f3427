#pragma once

#include <ggml.h>

namespace atlas::host {

/** Whether the host marks the nodes of a graph that are to be computed (GGML_TENSOR_FLAG_COMPUTE); tried once on a graph of one node. */
bool host_marks_nodes();

/** Whether the host wants a node computed: all but those without the mark, in versions that have it. */
inline bool is_wanted(const ggml_tensor* node) {
    return (node->flags & GGML_TENSOR_FLAG_COMPUTE) != 0 || !host_marks_nodes();
}

}  // namespace atlas::host
