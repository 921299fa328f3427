#include <cstring>

#include "host/ops/layers.h"
#include "host/ops/rows.h"
#include "kernels/layers.h"

namespace atlas::host {

Status check_rms_norm(const ggml_tensor* node) {
    if (!has_plain_rows(node) || !has_plain_rows(node->src[0]) || !ggml_are_same_shape(node, node->src[0]))
        return Status::unsupported("rows that are not f32 and together");
    return Status::ok();
}

Status run_rms_norm(const ggml_tensor* node, int n_threads) {
    float epsilon;
    std::memcpy(&epsilon, node->op_params, sizeof epsilon);
    for_rows(node, n_threads, [&](Row row) {
        kernels::rms_norm(row_of(node->src[0], row), static_cast<size_t>(node->ne[0]), epsilon, row_of(node, row));
    });
    return Status::ok();
}

}  // namespace atlas::host
