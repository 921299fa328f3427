#include "host/graph/graph_plan.h"

#include "host/abi/self_test.h"
#include "host/graph/op_kind.h"
#include "host/graph/whose.h"
#include "host/ops/table.h"

namespace atlas::host {
namespace {

std::pair<const std::byte*, const std::byte*> bytes_of(const ggml_tensor* tensor) {
    const auto* begin = static_cast<const std::byte*>(tensor->data);
    return {begin, begin + ggml_nbytes(tensor)};
}

}  // namespace

bool Step::is_product() const {
    return op && (op_kind(node->op) == OpKind::kMatMul || op_kind(node->op) == OpKind::kMatMulId);
}

/** The operation that is to run the node, and counts. */
const Op* GraphPlan::op_of(const ggml_tensor* node, Own own) {
    const Op* op = own_op(node);
    const bool attention = op && op->mask != kNone;
    const OpKind kind = op_kind(node->op);
    const bool product = op && (kind == OpKind::kMatMul || kind == OpKind::kMatMulId);
    if (attention && !own.attention) {
        ++counts_.attention_by_host;
        op = nullptr;
    } else if (op && op->paged[0] == kNone && !own.weights) {
        counts_.products_by_host += product ? 1 : 0;
        op = nullptr;
    } else if (product) {
        ++counts_.products;
    }
    ++(op ? counts_.own : counts_.host);
    return op;
}

void GraphPlan::build(ggml_cgraph* graph, Own own) {
    steps_.clear();
    counts_ = {};
    delegated_.clear();
    chains_.clear();
    masks_.clear();
    mask_written_ = false;
    const int n_nodes = ggml_graph_n_nodes(graph);
    for (int i = 0; i < n_nodes; ++i) {
        ggml_tensor* node = ggml_graph_node(graph, i);
        if (op_kind(node->op) == OpKind::kView || !abi::is_wanted(node) || ggml_is_empty(node)) continue;
        if (const Op* op = op_of(node, own)) {
            const bool changed = op->mask != kNone && reads_mask(node->src[op->mask]);
            steps_.push_back({StepKind::kOwn, op, node, 0, 0, nullptr, changed});
        } else if (!touches_pages(node)) {
            delegate(node);
        } else if (CacheChain chain(graph, i); chain.length() > 0) {
            i += chain.length() - 1;
            node = chain.nodes().back();
            steps_.push_back({StepKind::kKeyShift, nullptr, node, chains_.size(), 0});
            chains_.push_back(std::move(chain));
        } else {
            steps_.push_back({StepKind::kPaged, nullptr, node});
        }
        writes(node);
    }
    look_ahead();
}

void GraphPlan::look_ahead() {
    const ggml_tensor* next = nullptr;
    for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) {
        step->next_product = next;
        if (step->kind == StepKind::kOwn && op_kind(step->node->op) == OpKind::kMatMul) next = step->node;
    }
}

void GraphPlan::delegate(ggml_tensor* node) {
    if (steps_.empty() || steps_.back().kind != StepKind::kDelegated)
        steps_.push_back({StepKind::kDelegated, nullptr, nullptr, delegated_.size(), 0});
    delegated_.push_back(node);
    ++steps_.back().count;
}

/** Whether a mask of an earlier step was written since; this one is looked after from here on. */
bool GraphPlan::reads_mask(const ggml_tensor* mask) {
    if (!mask) return false;
    const bool changed = mask_written_;
    if (changed) masks_.clear();
    mask_written_ = false;
    const Range range = bytes_of(mask);
    for (const Range& known : masks_) {
        if (known == range) return changed;
    }
    masks_.push_back(range);
    return changed;
}

void GraphPlan::writes(const ggml_tensor* node) {
    if (masks_.empty() || mask_written_) return;
    const Range range = bytes_of(node);
    for (const Range& mask : masks_) mask_written_ |= range.first < mask.second && mask.first < range.second;
}

}  // namespace atlas::host
