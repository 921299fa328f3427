#include "host/graph/whose.h"

#include <ggml-backend.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <string_view>

#include "host/buffers/owner_buffer.h"
#include "host/graph/op_kind.h"

namespace atlas::host {
namespace {

/** Set once the host has shown a tensor of its tensor-parallel wrapper; until then nobody pays for looking. */
std::atomic<bool> g_tensor_parallel{false};

bool is_wrapped(const ggml_tensor* tensor) {
    const ggml_backend_buffer_t buffer = root_of(tensor)->buffer;
    if (!buffer) return false;
    const ggml_backend_dev_t device = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(buffer));
    return device && ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_META;
}

/**
 * Whether the op belongs to a graph that the host's tensor-parallel wrapper (-sm tensor) spreads over devices, us among them. It splits the
 * KV cache by heads and then needs queries, keys and values split alike, which only holds while their whole computation stays inside the
 * wrapper: every op of such a graph is ours to delegate. Activations have no buffer yet when the host asks, so look for a wrapped weight
 * or cache among the nearest ancestors.
 */
bool in_tensor_parallel(const ggml_tensor* op) {
    constexpr size_t kLimit = 48;  // a residual branch with its norms, gates and experts; more only costs time
    // What writes into another tensor follows that one.
    std::array<const ggml_tensor*, kLimit> seen{root_of(op)};
    size_t n_seen = 1;
    for (size_t next = 0; next < n_seen; ++next) {
        const ggml_tensor* tensor = seen[next];
        if (is_wrapped(tensor)) {
            g_tensor_parallel.store(true, std::memory_order_relaxed);
            return true;
        }
        // Before the first wrapped tensor, which the host shows as the weight of a question about its placement, parents are enough.
        if (next > 0 && !serves_tensor_parallel()) continue;
        for (const ggml_tensor* src : tensor->src) {
            if (src && n_seen < kLimit && std::find(seen.begin(), seen.begin() + n_seen, src) == seen.begin() + n_seen)
                seen[n_seen++] = src;
        }
    }
    return false;
}

/**
 * Whether the op goes on with a quantised cache that the host has decoded to f32, as it does to all of K when positions shift: decode, rotate
 * back, embed the shift, rotate, encode. Were only its two ends ours, the host would copy the decoded K of a layer to the CPU's buffers and back.
 */
bool continues_decoded_cache(const ggml_tensor* op) {
    const ggml_tensor* tensor = op;
    for (int step = 0; step < 4; ++step) {
        const OpKind kind = op_kind(tensor->op);
        if (kind == OpKind::kCopy) {
            const ggml_tensor* cache = tensor->src[0];
            return step > 0 && tensor->type == GGML_TYPE_F32 && cache && ggml_is_quantized(cache->type) &&
                   is_owned(cache);
        }
        if (kind != OpKind::kRope && kind != OpKind::kMatMul) return false;
        const ggml_tensor* next = tensor->src[kind == OpKind::kRope ? 0 : 1];
        if (!next) return false;
        tensor = root_of(next);
    }
    return false;
}

}  // namespace

bool serves_tensor_parallel() { return g_tensor_parallel.load(std::memory_order_relaxed); }

bool touches_pages(const ggml_tensor* node) {
    if (placement_of(node).pages) return true;
    for (const ggml_tensor* src : node->src) {
        if (src && placement_of(src).pages) return true;
    }
    return false;
}

bool is_ours_to_write(const ggml_tensor* op, bool owner) {
    const ggml_tensor* root = root_of(op);
    if (std::string_view(root->name).starts_with("cache_")) return true;
    // With KV in the CPU's buffers only caches are worth taking over; tensors without a buffer are questions about the type.
    if (root->op == GGML_OP_NONE && (owner || root->buffer == nullptr)) return true;
    return owner && (is_owned(op) || in_tensor_parallel(op));
}

bool is_ours_to_delegate(const ggml_tensor* op) {
    if (is_owned(op) || continues_decoded_cache(op)) return true;
    for (const ggml_tensor* src : op->src) {
        if (src && is_owned(src)) return true;
    }
    return in_tensor_parallel(op);
}

}  // namespace atlas::host
