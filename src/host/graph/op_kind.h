#pragma once

#include <ggml.h>

namespace atlas::host {

/** What an operation is to the graph walk. Operations that Atlas runs itself are in ops/table.h, whatever their kind. */
enum class OpKind { kView, kCopy, kRope, kMatMul, kMatMulId, kGetRows, kSetRows, kOther };

/** Kind of an op number. Numbers move between versions of ggml, so they are looked up by name once. */
OpKind op_kind(ggml_op op);

/** The number that the host gives an operation, by its name in capitals; -1 when the host does not know it. Slow: names are searched. */
int op_number(const char* name);

/** What a tensor is a view of, or itself. */
inline const ggml_tensor* root_of(const ggml_tensor* tensor) {
    while (tensor->view_src) tensor = tensor->view_src;
    return tensor;
}

}  // namespace atlas::host
