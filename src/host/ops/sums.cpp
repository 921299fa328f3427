#include "host/ops/layers.h"
#include "host/ops/rows.h"
#include "kernels/layers.h"

namespace atlas::host {
namespace {

template <class Kernel>
Status run(const ggml_tensor* node, int n_threads, Kernel kernel) {
    for_rows(node, n_threads, [&](Row row) {
        kernel(row_of(node->src[0], row), row_of(node->src[1], row), static_cast<size_t>(node->ne[0]),
               row_of(node, row));
    });
    return Status::ok();
}

}  // namespace

Status check_sum(const ggml_tensor* node) {
    const ggml_tensor* a = node->src[0];
    const ggml_tensor* b = node->src[1];
    if (!has_plain_rows(node) || !has_plain_rows(a) || !has_plain_rows(b))
        return Status::unsupported("rows that are not f32 and together");
    if (!ggml_are_same_shape(node, a) || b->ne[0] != a->ne[0]) return Status::unsupported("elements that repeat");
    for (int i = 1; i < GGML_MAX_DIMS; ++i)
        if (b->ne[i] == 0 || a->ne[i] % b->ne[i] != 0) return Status::unsupported("rows that do not repeat evenly");
    return Status::ok();
}

Status run_add(const ggml_tensor* node, int n_threads) { return run(node, n_threads, kernels::add); }
Status run_mul(const ggml_tensor* node, int n_threads) { return run(node, n_threads, kernels::product); }

}  // namespace atlas::host
