#include "host/graph/cache_chain.h"

#include <algorithm>

#include "host/abi/self_test.h"
#include "host/buffers/owner_buffer.h"
#include "host/graph/op_kind.h"

namespace atlas::host {
namespace {

constexpr int kMaxNodes = 16;

int outermost_dimension(const ggml_tensor* tensor) {
    int dimension = GGML_MAX_DIMS - 1;
    while (dimension > 0 && tensor->ne[dimension] == 1) --dimension;
    return dimension;
}

/** Whether the tensor holds the cells one after the other, each in whole rows of the outermost dimension. */
bool is_cell_by_cell(const ggml_tensor* tensor, int64_t cells) {
    const int dimension = outermost_dimension(tensor);
    return dimension > 0 && tensor->ne[dimension] % cells == 0 && ggml_is_contiguous(tensor);
}

bool is_plain(const ggml_tensor* tensor) {
    return !placement_of(tensor).pages && tensor->type == GGML_TYPE_F32 && !(tensor->flags & GGML_TENSOR_FLAG_OUTPUT);
}

/** Whether both are the same contiguous part of the same paged tensor. */
bool same_place(const ggml_tensor* one, const ggml_tensor* other) {
    const Placement a = placement_of(one);
    const Placement b = placement_of(other);
    return a.pages && a.pages == b.pages && a.offset == b.offset && one->type == other->type &&
           ggml_are_same_shape(one, other) && ggml_is_contiguous(one) && ggml_is_contiguous(other);
}

}  // namespace

CacheChain::CacheChain(ggml_cgraph* graph, int first) {
    const int end = std::min(ggml_graph_n_nodes(graph), first + kMaxNodes);
    ggml_tensor* start = ggml_graph_node(graph, first);
    const ggml_tensor* cache = start->src[0];
    if (op_kind(start->op) != OpKind::kCopy || !cache || !placement_of(cache).pages ||
        !ggml_is_quantized(cache->type) || !ggml_is_contiguous(cache) || !ggml_are_same_shape(cache, start) ||
        !is_plain(start))
        return;
    cells_ = start->ne[2];
    if (cells_ < 2 || outermost_dimension(start) != 2 || !ggml_is_contiguous(start)) return;
    nodes_.reserve(kMaxNodes);
    nodes_.push_back(start);
    for (int i = first + 1; i < end; ++i) {
        ggml_tensor* node = ggml_graph_node(graph, i);
        if (op_kind(node->op) == OpKind::kView && node->src[0] != nodes_.back()) continue;
        if (!append(node)) return;
        if (op_kind(node->op) != OpKind::kCopy) continue;
        if (!is_read_elsewhere(graph)) length_ = i + 1 - first;
        return;
    }
}

/** Whether another node of the graph reads a result between, which run() does not leave behind. */
bool CacheChain::is_read_elsewhere(ggml_cgraph* graph) const {
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        const ggml_tensor* node = ggml_graph_node(graph, i);
        if (std::find(nodes_.begin(), nodes_.end(), node) != nodes_.end()) continue;
        for (const ggml_tensor* src : node->src) {
            if (src && std::find(nodes_.begin(), nodes_.end() - 1, src) != nodes_.end() - 1) return true;
        }
    }
    return false;
}

/** Adds a node that works on the last one's result, cell by cell. */
bool CacheChain::append(ggml_tensor* node) {
    if (!abi::is_wanted(node)) return false;
    const ggml_tensor* last = nodes_.back();
    switch (op_kind(node->op)) {
        case OpKind::kView:
            // Only another shape of the whole: what is permuted is not contiguous.
            if (ggml_nelements(node) != ggml_nelements(last) || node->data != last->data) return false;
            break;
        case OpKind::kRope:
            if (node->src[0] != last || node->ne[2] != cells_ || !node->src[1] || node->src[1]->ne[0] != cells_)
                return false;
            break;
        case OpKind::kMatMul:
            // The same matrix for every cell.
            if (node->src[1] != last || !node->src[0] || ggml_nrows(node->src[0]) != node->src[0]->ne[1]) return false;
            break;
        case OpKind::kCopy:
            if (node->src[0] != last || !same_place(node, nodes_.front()->src[0]) || !ggml_are_same_shape(node, last))
                return false;
            nodes_.push_back(node);
            return true;
        default:
            return false;
    }
    for (const ggml_tensor* src : node->src) {
        if (src && src != last && placement_of(src).pages) return false;
    }
    if (!is_plain(node) || !is_cell_by_cell(node, cells_)) return false;
    nodes_.push_back(node);
    return true;
}

}  // namespace atlas::host
