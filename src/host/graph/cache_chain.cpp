#include "host/graph/cache_chain.h"

#include <algorithm>
#include <array>

#include "base/log.h"
#include "host/graph/ops.h"
#include "host/buffers/owner_buffer.h"

namespace atlas::host {
namespace {

constexpr int kMaxNodes = 16;
constexpr size_t kDecodedBytes = size_t{1} << 20;  // two of these and the encoded cells stay in the cores' caches

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

/** `count` of `cells` cells of a tensor that lie at `data`. */
ggml_tensor part_of(const ggml_tensor* whole, int64_t cells, int64_t count, void* data) {
    ggml_tensor part = *whole;
    const int dimension = outermost_dimension(whole);
    part.ne[dimension] = whole->ne[dimension] / cells * count;
    for (int i = dimension + 1; i < GGML_MAX_DIMS; ++i)
        part.nb[i] = part.nb[i - 1] * static_cast<size_t>(part.ne[i - 1]);
    part.data = data;
    part.buffer = nullptr;
    part.view_src = nullptr;
    part.extra = nullptr;
    return part;
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

ggml_status CacheChain::run(CpuDelegate& delegate) const {
    const ggml_tensor* cache = nodes_.front()->src[0];
    const Placement place = placement_of(cache);
    int64_t cell_values = 1;  // at most, of any result between
    for (const ggml_tensor* node : nodes_) cell_values = std::max(cell_values, ggml_nelements(node) / cells_);
    const int64_t step =
        std::clamp<int64_t>(static_cast<int64_t>(kDecodedBytes / sizeof(float)) / cell_values, 1, cells_);
    const size_t cell_bytes = ggml_nbytes(cache) / static_cast<size_t>(cells_);

    std::vector<std::byte> encoded(static_cast<size_t>(step) * cell_bytes);
    std::array<std::vector<float>, 2> decoded;  // read and written in turns
    for (auto& values : decoded) values.resize(static_cast<size_t>(step * cell_values));
    std::vector<ggml_tensor> parts(nodes_.size());
    std::vector<ggml_tensor> positions;
    positions.reserve(nodes_.size());
    std::vector<ggml_tensor*> work;
    work.reserve(nodes_.size());

    for (int64_t cell = 0; cell < cells_; cell += step) {
        const int64_t count = std::min(step, cells_ - cell);
        const size_t offset = place.offset + static_cast<size_t>(cell) * cell_bytes;
        const size_t bytes = static_cast<size_t>(count) * cell_bytes;
        if (place.pages->is_unmade(offset, bytes)) continue;  // all that is computed is linear: zeros stay zeros
        place.pages->read(offset, encoded.data(), bytes);
        ggml_tensor encoded_part = part_of(cache, cells_, count, encoded.data());
        ggml_tensor* last = &encoded_part;
        size_t turn = 0;
        work.clear();
        positions.clear();
        for (size_t i = 0; i < nodes_.size(); ++i) {
            const ggml_tensor* node = nodes_[i];
            const OpKind kind = op_kind(node->op);
            const bool ends = i + 1 == nodes_.size();
            void* data = kind == OpKind::kView ? last->data
                         : ends                ? encoded.data()
                                               : static_cast<void*>(decoded[turn++ % 2].data());
            parts[i] = part_of(node, cells_, count, data);
            parts[i].src[kind == OpKind::kMatMul ? 1 : 0] = last;
            if (kind == OpKind::kCopy && parts[i].src[1]) parts[i].src[1] = &parts[i];
            if (kind == OpKind::kRope) {
                ggml_tensor& part = positions.emplace_back(*node->src[1]);
                part.ne[0] = count;
                part.data = static_cast<std::byte*>(part.data) + static_cast<size_t>(cell) * part.nb[0];
                parts[i].src[1] = &part;
            }
            if (kind != OpKind::kView) work.push_back(&parts[i]);
            last = &parts[i];
        }
        if (const ggml_status status = delegate.run(work); status != GGML_STATUS_SUCCESS) return status;
        if (const Status written = place.pages->update(offset, encoded.data(), bytes); !written.is_ok()) {
            log().error("{} into '{}': {}", ggml_op_name(nodes_.back()->op), nodes_.back()->name, written.to_string());
            return GGML_STATUS_ALLOC_FAILED;
        }
    }
    return GGML_STATUS_SUCCESS;
}

}  // namespace atlas::host
