#include "host/ops/paged.h"

#include <array>
#include <new>

#include "base/log.h"
#include "host/buffers/owner_buffer.h"
#include "host/graph/op_kind.h"
#include "host/ops/shadow.h"
#include "host/ops/slices.h"

namespace atlas::host {
namespace {

/** Whether the node turns keys in place where none were ever stored: zeros stay zeros. */
bool turns_nothing(const ggml_tensor* node) {
    if (op_kind(node->op) != OpKind::kRope) return false;
    const Placement from = placement_of(node->src[0]);
    const Placement to = placement_of(node);
    return from.pages && from.pages == to.pages && from.offset == to.offset &&
           to.pages->is_unmade(to.offset, ggml_nbytes(node));
}

}  // namespace

ggml_status run_paged(ggml_tensor* node, CpuDelegate& delegate) {
    try {
        Slices slices(node);
        while (ggml_tensor* slice = slices.next()) {
            if (turns_nothing(slice)) continue;
            ShadowNode shadow(slice, {});
            if (!shadow.status().is_ok()) {
                log().error("{} on '{}': {}", ggml_op_name(node->op), node->name, shadow.status().to_string());
                return GGML_STATUS_FAILED;
            }
            if (const ggml_status status = delegate.run(std::array{shadow.node()}); status != GGML_STATUS_SUCCESS)
                return status;
            if (const Status written = shadow.write_back(); !written.is_ok()) {
                log().error("{} into '{}': {}", ggml_op_name(node->op), node->name, written.to_string());
                return GGML_STATUS_ALLOC_FAILED;
            }
        }
        return GGML_STATUS_SUCCESS;
    } catch (const std::bad_alloc&) {
        log().error("{} on '{}': no memory for a copy of its operands", ggml_op_name(node->op), node->name);
        return GGML_STATUS_ALLOC_FAILED;
    }
}

}  // namespace atlas::host
