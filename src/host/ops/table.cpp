#include "host/ops/table.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <iterator>
#include <mutex>
#include <set>
#include <string>
#include <string_view>

#include "base/log.h"
#include "host/graph/op_kind.h"
#include "host/buffers/owner_buffer.h"
#include "host/graph/whose.h"
#include "host/ops/delegate.h"
#include "host/ops/layers.h"
#include "host/ops/set_rows.h"
#include "runtime/plugin_runtime.h"

namespace atlas::host {
namespace {

std::atomic<bool> g_experts_cached{false};

/**
 * ATLAS_WEIGHTS=own, where it is known to work: not within the host's tensor-parallel wrapper, which hands out parts of tensors, and not beside its
 * cache of experts, which it fills between splits of a graph.
 */
bool takes_weights() {
    return runtime::plugin_runtime()->options().weights == WeightsMode::kOwn && !serves_tensor_parallel() &&
           !g_experts_cached.load(std::memory_order_relaxed);
}

void see_expert_cache(const ggml_tensor* node) {
    if (g_experts_cached.load(std::memory_order_relaxed)) return;
    for (const ggml_tensor* src : node->src) {
        if (!src || !std::string_view(root_of(src)->name).starts_with("moe_cache")) continue;
        if (!g_experts_cached.exchange(true) && runtime::plugin_runtime()->options().weights == WeightsMode::kOwn)
            log().warn("ATLAS_WEIGHTS=own takes no part from here on: the program keeps a cache of experts");
        return;
    }
}

/** With weights of ours no operation between them is worth a hand-over: all are delegated that have nothing in memory we cannot read. */
bool is_of_whole_graph(const ggml_tensor* node) {
    if (!takes_weights()) return false;
    return std::all_of(std::begin(node->src), std::end(node->src), [](const ggml_tensor* src) {
        const ggml_backend_buffer_t buffer = src ? root_of(src)->buffer : nullptr;
        if (!buffer || ggml_backend_buffer_is_host(buffer)) return true;
        // With size 0 it is a question about where a weight is to lie: with the host, but for those that we multiply with.
        return is_owner_buffer(buffer) && ggml_backend_buffer_get_size(buffer) > 0;
    });
}

constexpr int kParams = GGML_MAX_OP_PARAMS / static_cast<int>(sizeof(int32_t));
constexpr size_t kMaxOps = 512;
// A host with many shapes that are declined is not to fill the log.
constexpr size_t kMostReasons = 64;

Status check_set_rows(const ggml_tensor* node) {
    if (supports_set_rows(node)) return Status::ok();
    return Status::unsupported(std::string("rows of ") + ggml_type_name(node->src[0]->type) + " by " +
                               ggml_type_name(node->src[1]->type) + " numbers into " + ggml_type_name(node->type));
}

/** What is taken with the whole graph or not at all: never for its own sake, and nobody is told when the host's kernels run it. */
bool with_whole_graph(const ggml_tensor* /*node*/, bool /*owner*/) { return false; }

// A new operation is a file beside this one and a row here.
constexpr Op kOps[] = {
    {"FLASH_ATTN_EXT",
     3,
     5,
     5,
     3,
     {1, 2},
     nullptr,
     check_flash_attention,
     [](const ggml_tensor* node, const OpContext& context) { return context.attention.run(node, context.n_threads); }},
    {"SET_ROWS",
     2,
     3,
     0,
     kNone,
     {kResult, 2},
     is_ours_to_write,
     check_set_rows,
     [](const ggml_tensor* node, const OpContext& context) { return set_rows(node, context.n_threads); }},
    {"MUL_MAT",
     2,
     2,
     1,  // the precision of sums, which are f32 in any case
     kNone,
     {kNone, kNone},
     [](const ggml_tensor* node, bool owner) { return owner && takes_weights() && is_weight(node->src[0]); },
     check_mat_mul,
     [](const ggml_tensor* node, const OpContext& context) {
         return context.mat_mul.run(node, context.next_product, context.n_threads);
     }},
    {"MUL_MAT_ID",
     3,
     3,
     1,
     kNone,
     {kNone, kNone},
     [](const ggml_tensor* node, bool owner) { return owner && takes_weights() && is_weight(node->src[0]); },
     check_mat_mul_id,
     [](const ggml_tensor* node, const OpContext& context) {
         return context.mat_mul.run_chosen(node, context.n_threads);
     }},
    {"RMS_NORM",
     1,
     1,
     1,
     kNone,
     {kNone, kNone},
     with_whole_graph,
     check_rms_norm,
     [](const ggml_tensor* node, const OpContext& context) { return run_rms_norm(node, context.n_threads); }},
    {"ADD",
     2,
     2,
     0,
     kNone,
     {kNone, kNone},
     with_whole_graph,
     check_sum,
     [](const ggml_tensor* node, const OpContext& context) { return run_add(node, context.n_threads); }},
    {"MUL",
     2,
     2,
     0,
     kNone,
     {kNone, kNone},
     with_whole_graph,
     check_sum,
     [](const ggml_tensor* node, const OpContext& context) { return run_mul(node, context.n_threads); }},
    {"GLU",
     1,
     2,
     2,
     kNone,
     {kNone, kNone},
     with_whole_graph,
     check_glu,
     [](const ggml_tensor* node, const OpContext& context) { return run_glu(node, context.n_threads); }},
    {"ROPE",
     2,
     3,
     11,
     kNone,
     {kNone, kNone},
     with_whole_graph,
     check_rope,
     [](const ggml_tensor* node, const OpContext& context) { return context.rope.run(node, context.n_threads); }},
};

const Op* find_op(ggml_op op) {
    static const std::array<const Op*, kMaxOps> by_number = [] {
        std::array<const Op*, kMaxOps> found{};
        for (const Op& row : kOps) {
            if (const int number = op_number(row.name); number >= 0) found[static_cast<size_t>(number)] = &row;
        }
        return found;
    }();
    const auto index = static_cast<size_t>(op);
    return index < by_number.size() ? by_number[index] : nullptr;
}

Status check(const Op& op, const ggml_tensor* node) {
    for (int i = 0; i < GGML_MAX_SRC; ++i) {
        if (i < op.required && !node->src[i])
            return Status::unsupported("operand " + std::to_string(i) + " is missing");
        if (i >= op.sources && node->src[i]) return Status::unsupported("operand " + std::to_string(i) + " is unknown");
    }
    for (int i = op.params; i < kParams; ++i) {
        if (node->op_params[i] != 0) {
            return Status::unsupported("parameter " + std::to_string(i) + " is " + std::to_string(node->op_params[i]) +
                                       " and unknown");
        }
    }
    return op.check(node);
}

void say_declined(const Op& op, const Status& reason) {
    static std::mutex mutex;
    static std::set<std::string> said;  // guarded by mutex
    std::string text = std::string(op.name) + " left to the host: " + reason.message();
    const std::lock_guard lock(mutex);
    if (said.size() >= kMostReasons) return;
    if (const auto [entry, is_new] = said.insert(std::move(text)); is_new) log().info("{}", *entry);
}

}  // namespace

const Op* own_op(const ggml_tensor* node) {
    const Op* op = find_op(node->op);
    // Products belong to the host unless weights are ours, and to it where they have an operand in pages.
    if (op && op->paged[0] == kNone && (!takes_weights() || touches_pages(node))) return nullptr;
    return op && check(*op, node).is_ok() ? op : nullptr;
}

bool supports_op(const ggml_tensor* node, bool owner) {
    if (op_kind(node->op) == OpKind::kView) return true;
    see_expert_cache(node);
    const Op* op = find_op(node->op);
    if (op) {
        const bool ours = !op->is_ours || op->is_ours(node, owner);
        if (!ours && op->paged[0] != kNone) return false;
        const Status status = ours ? check(*op, node) : Status::unsupported({});
        if (status.is_ok()) return true;
        if (ours) say_declined(*op, status);
    }
    // What is declined of attention and of writes into a cache is the host's to place.
    const bool with_graph = (!op || op->paged[0] == kNone) && is_of_whole_graph(node);
    return owner && (with_graph || is_ours_to_delegate(node)) && CpuDelegate::supports(node);
}

}  // namespace atlas::host
