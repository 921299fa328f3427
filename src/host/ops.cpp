#include "host/ops.h"

#include <array>
#include <cstring>
#include <string_view>

#include "host/delegate.h"
#include "host/flash_attention.h"
#include "host/owner_buffer.h"
#include "host/set_rows.h"

namespace atlas::host {
namespace {

constexpr int kMaxOps = 512;

std::array<OpKind, kMaxOps> look_up_kinds() {
    std::array<OpKind, kMaxOps> kinds;
    kinds.fill(OpKind::kOther);
    // The names end where the host's own count ends; GGML_OP_COUNT of our headers may be another version's.
    int remaining = 6;
    for (int op = 0; op < GGML_OP_COUNT && remaining > 0; ++op) {
        const std::string_view name(ggml_op_name(static_cast<ggml_op>(op)));
        if (name == "NONE" || name == "VIEW" || name == "RESHAPE" || name == "PERMUTE" || name == "TRANSPOSE") {
            kinds[static_cast<size_t>(op)] = OpKind::kView;
        } else if (name == "SET_ROWS") {
            kinds[static_cast<size_t>(op)] = OpKind::kSetRows;
        } else if (name == "FLASH_ATTN_EXT") {
            kinds[static_cast<size_t>(op)] = OpKind::kFlashAttention;
        }
    }
    return kinds;
}

const ggml_tensor* root_of(const ggml_tensor* tensor) {
    while (tensor->view_src) tensor = tensor->view_src;
    return tensor;
}

/** Writes into activations stay where the activations are computed; only what outlives the graph is ours. */
bool writes_stored_rows(const ggml_tensor* op, bool owner) {
    const ggml_tensor* root = root_of(op);
    if (std::string_view(root->name).starts_with("cache_")) return true;
    if (root->op != GGML_OP_NONE) return false;
    // With KV in the CPU's buffers only caches are worth taking over; tensors without a buffer are questions about the type.
    return owner || root->buffer == nullptr;
}

}  // namespace

OpKind op_kind(ggml_op op) {
    static const std::array<OpKind, kMaxOps> kinds = look_up_kinds();
    const auto index = static_cast<size_t>(op);
    return index < kinds.size() ? kinds[index] : OpKind::kOther;
}

bool supports_op(const ggml_tensor* op, bool owner) {
    switch (op_kind(op->op)) {
        case OpKind::kView: return true;
        case OpKind::kFlashAttention: return supports_flash_attention(op);
        case OpKind::kSetRows:
            return supports_set_rows(op) && (writes_stored_rows(op, owner) || (owner && is_owned(op)));
        case OpKind::kOther: break;
    }
    if (!owner) return false;
    bool ours = is_owned(op);
    for (const ggml_tensor* src : op->src) ours = ours || (src && is_owned(src));
    return ours && CpuDelegate::supports(op);
}

}  // namespace atlas::host
