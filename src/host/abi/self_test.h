#pragma once

#include <ggml-backend.h>
#include <ggml.h>

#include "base/status.h"

namespace atlas::host::abi {

/** Whether the host marks the nodes of a graph that are to be computed (GGML_TENSOR_FLAG_COMPUTE); tried once on a graph of one node. */
bool host_marks_nodes();

/** Whether the host wants a node computed: all but those without the mark, in versions that have it. */
inline bool is_wanted(const ggml_tensor* node) {
    return (node->flags & GGML_TENSOR_FLAG_COMPUTE) != 0 || !host_marks_nodes();
}

/**
 * Whether the host reads a device and its tables as we wrote them, and we read its tensors as it does, whatever its version says: the size of
 * a tensor and each field that Atlas reads, the fields behind each table, then a buffer and a graph of two nodes, all through the host's own
 * public functions. What lies behind a table is compared before anything is called through it. Takes well under a millisecond, which
 * a test watches.
 * Unsupported, naming the function or field and the values. Throws std::bad_alloc.
 */
Status self_test(ggml_backend_dev_t device, ggml_backend_reg_t registry);

}  // namespace atlas::host::abi
