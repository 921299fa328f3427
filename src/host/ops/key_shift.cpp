#include "host/ops/key_shift.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include "base/log.h"
#include "host/buffers/owner_buffer.h"
#include "host/graph/op_kind.h"

namespace atlas::host {
namespace {

constexpr size_t kDecodedBytes = size_t{1} << 20;  // two of these and the encoded cells stay in the cores' caches

int outermost_dimension(const ggml_tensor* tensor) {
    int dimension = GGML_MAX_DIMS - 1;
    while (dimension > 0 && tensor->ne[dimension] == 1) --dimension;
    return dimension;
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

ggml_status run_key_shift(const CacheChain& chain, CpuDelegate& delegate) {
    const std::vector<ggml_tensor*>& nodes = chain.nodes();
    const int64_t cells = chain.cells();
    const ggml_tensor* cache = nodes.front()->src[0];
    const Placement place = placement_of(cache);
    int64_t cell_values = 1;  // at most, of any result between
    for (const ggml_tensor* node : nodes) cell_values = std::max(cell_values, ggml_nelements(node) / cells);
    const int64_t step =
        std::clamp<int64_t>(static_cast<int64_t>(kDecodedBytes / sizeof(float)) / cell_values, 1, cells);
    const size_t cell_bytes = ggml_nbytes(cache) / static_cast<size_t>(cells);

    std::vector<std::byte> encoded(static_cast<size_t>(step) * cell_bytes);
    std::array<std::vector<float>, 2> decoded;  // read and written in turns
    for (auto& values : decoded) values.resize(static_cast<size_t>(step * cell_values));
    std::vector<ggml_tensor> parts(nodes.size());
    std::vector<ggml_tensor> positions;
    positions.reserve(nodes.size());
    std::vector<ggml_tensor*> work;
    work.reserve(nodes.size());

    for (int64_t cell = 0; cell < cells; cell += step) {
        const int64_t count = std::min(step, cells - cell);
        const size_t offset = place.offset + static_cast<size_t>(cell) * cell_bytes;
        const size_t bytes = static_cast<size_t>(count) * cell_bytes;
        if (place.pages->is_unmade(offset, bytes)) continue;  // all that is computed is linear: zeros stay zeros
        if (const Status read = place.pages->read(offset, encoded.data(), bytes); !read.is_ok()) {
            log().error("{} on '{}': {}", ggml_op_name(nodes.back()->op), nodes.back()->name, read.to_string());
            return GGML_STATUS_FAILED;
        }
        ggml_tensor encoded_part = part_of(cache, cells, count, encoded.data());
        ggml_tensor* last = &encoded_part;
        size_t turn = 0;
        work.clear();
        positions.clear();
        for (size_t i = 0; i < nodes.size(); ++i) {
            const ggml_tensor* node = nodes[i];
            const OpKind kind = op_kind(node->op);
            const bool ends = i + 1 == nodes.size();
            void* data = kind == OpKind::kView ? last->data
                         : ends                ? encoded.data()
                                               : static_cast<void*>(decoded[turn++ % 2].data());
            parts[i] = part_of(node, cells, count, data);
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
            log().error("{} into '{}': {}", ggml_op_name(nodes.back()->op), nodes.back()->name, written.to_string());
            return GGML_STATUS_ALLOC_FAILED;
        }
    }
    return GGML_STATUS_SUCCESS;
}

}  // namespace atlas::host
