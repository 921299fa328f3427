#include <optional>

#include "host/ops/layers.h"
#include "host/ops/rows.h"
#include "kernels/layers.h"

namespace atlas::host {
namespace {

std::optional<kernels::Gate> gate_of(const ggml_tensor* node) {
    switch (ggml_get_glu_op(node)) {
        case GGML_GLU_OP_REGLU:
            return kernels::Gate::kReLU;
        case GGML_GLU_OP_GEGLU:
            return kernels::Gate::kGELU;
        case GGML_GLU_OP_SWIGLU:
            return kernels::Gate::kSiLU;
        default:
            return std::nullopt;
    }
}

}  // namespace

Status check_glu(const ggml_tensor* node) {
    const ggml_tensor* x = node->src[0];
    const ggml_tensor* up = node->src[1];
    if (!gate_of(node)) return Status::unsupported("this gate");
    if (!has_plain_rows(node) || !has_plain_rows(x) || (up && !has_plain_rows(up)))
        return Status::unsupported("rows that are not f32 and together");
    const bool shapes = up ? ggml_are_same_shape(x, up) && ggml_are_same_shape(x, node)
                           : x->ne[0] == 2 * node->ne[0] && ggml_nrows(x) == ggml_nrows(node) &&
                                 x->ne[1] == node->ne[1] && x->ne[2] == node->ne[2];
    return shapes ? Status::ok() : Status::unsupported("operands of different shapes");
}

Status run_glu(const ggml_tensor* node, int n_threads) {
    const kernels::Gate gate = *gate_of(node);
    const ggml_tensor* up = node->src[1];
    const int64_t n = node->ne[0];
    const bool swapped = !up && node->op_params[1] != 0;
    for_rows(node, n_threads, [&](Row row) {
        const float* x = row_of(node->src[0], row);
        const float* value = up ? row_of(up, row) : swapped ? x : x + n;
        kernels::gated(gate, swapped ? x + n : x, value, static_cast<size_t>(n), row_of(node, row));
    });
    return Status::ok();
}

}  // namespace atlas::host
