#include "host/ops/slices.h"

#include <algorithm>

#include "host/buffers/owner_buffer.h"
#include "host/graph/op_kind.h"

namespace atlas::host {
namespace {

// Stays in a core's L2 together with its copy, and is much more work than starting the host's threads.
constexpr size_t kSliceBytes = size_t{1} << 20;

/** The dimension of `src` that goes with dimension 2 of a rotary embedding: positions are the operand behind x, one per index. */
int rope_dimension(int source) { return source == 0 ? 2 : source == 1 ? 0 : -1; }

/** Whether neighbours along the dimension do not overlap in memory: then so do slices, and a slice's bytes are its own. */
bool is_outermost(const ggml_tensor* tensor, int dimension) {
    size_t extent = ggml_row_size(tensor->type, ggml_blck_size(tensor->type));
    for (int i = 0; i < dimension; ++i) {
        const int64_t steps = i == 0 ? tensor->ne[0] / ggml_blck_size(tensor->type) : tensor->ne[i];
        extent += static_cast<size_t>(steps - 1) * tensor->nb[i];
    }
    return extent <= tensor->nb[dimension];
}

int outermost_dimension(const ggml_tensor* node) {
    int dimension = GGML_MAX_DIMS - 1;
    while (dimension > 0 && node->ne[dimension] == 1) --dimension;
    return dimension;
}

/** The dimension along which the node can be cut, -1: none. */
int dimension_of(const ggml_tensor* node) {
    const int dimension = outermost_dimension(node);
    if (dimension == 0) return -1;
    const OpKind kind = op_kind(node->op);
    if (kind == OpKind::kRope) {
        // Rotary embeddings of images have several positions per index.
        if (dimension != 2 || !node->src[1] || node->src[1]->ne[0] != node->ne[2]) return -1;
    } else if (kind != OpKind::kCopy) {
        return -1;
    }
    const auto fits = [&](const ggml_tensor* tensor) {
        return ggml_are_same_shape(tensor, node) && (!placement_of(tensor).pages || is_outermost(tensor, dimension));
    };
    if (!fits(node)) return -1;
    for (int i = 0; i < GGML_MAX_SRC; ++i) {
        const ggml_tensor* src = node->src[i];
        if (!src) continue;
        if (kind == OpKind::kRope && i > 0 ? placement_of(src).pages != nullptr : !fits(src)) return -1;
    }
    return dimension;
}

void narrow(ggml_tensor* slice, ggml_tensor* whole, int dimension, int64_t first, int64_t count) {
    *slice = *whole;
    if (dimension < 0) return;
    slice->ne[dimension] = count;
    slice->data = static_cast<std::byte*>(whole->data) + static_cast<size_t>(first) * whole->nb[dimension];
    // Its place in pages is found through the tensor that it is a part of.
    if (!slice->view_src) slice->view_src = whole;
}

}  // namespace

Slices::Slices(ggml_tensor* node) : whole_(node), dimension_(dimension_of(node)) {
    if (dimension_ < 0) return;
    size_t bytes = node->nb[dimension_];
    for (int i = 0; i < GGML_MAX_SRC; ++i) {
        if (node->src[i] && ggml_are_same_shape(node->src[i], node))
            bytes = std::max(bytes, node->src[i]->nb[dimension_]);
    }
    step_ = std::max<int64_t>(1, static_cast<int64_t>(kSliceBytes / bytes));
}

ggml_tensor* Slices::next() {
    const int64_t count = dimension_ < 0 ? 1 : whole_->ne[dimension_];
    if (done_ >= count) return nullptr;
    const int64_t first = done_;
    const int64_t n = std::min(step_, count - first);
    done_ += n;
    if (n == count) return whole_;
    narrow(&node_, whole_, dimension_, first, n);
    for (size_t i = 0; i < sources_.size(); ++i) {
        if (!whole_->src[i]) continue;
        const int dimension = op_kind(whole_->op) == OpKind::kRope ? rope_dimension(static_cast<int>(i)) : dimension_;
        narrow(&sources_[i], whole_->src[i], dimension, first, n);
        node_.src[i] = &sources_[i];
    }
    return &node_;
}

}  // namespace atlas::host
