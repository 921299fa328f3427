#include "host/ops/streamed_product.h"

#include <algorithm>

namespace atlas::host {

static_assert(weights::kChunkRows == kernels::kWeightPanel);

StreamedProduct::StreamedProduct(const weights::Pass& pass, weights::StreamedWeight& weight,
                                 const kernels::WeightProduct& product, int64_t least)
    : pass_(pass), weight_(weight), product_(product) {
    const auto chunks = static_cast<int64_t>(weight.chunks.size());
    pieces_ = std::max<int64_t>((least + chunks - 1) / chunks, 1);
}

StreamedProduct::Rows StreamedProduct::rows_of(int64_t share) const {
    weights::Chunk& chunk = weight_.chunks[static_cast<size_t>(share / pieces_)];
    const int64_t panels = (chunk.rows + weights::kChunkRows - 1) / weights::kChunkRows;
    const auto border = [&](int64_t piece) {
        return std::min(chunk.rows, panels * piece / pieces_ * weights::kChunkRows);
    };
    return {&chunk, border(share % pieces_), border(share % pieces_ + 1)};
}

void StreamedProduct::multiply(int64_t share, int64_t later) const {
    const Rows rows = rows_of(share);
    if (rows.begin >= rows.end) return;
    const std::byte* data = pass_.wait(*rows.chunk);
    if (!data) return;
    kernels::WeightProduct part = product_;
    part.weights.data = data;
    part.weights.rows = rows.chunk->rows;
    part.out += rows.chunk->first_row;
    if (later < shares()) {
        const Rows next = rows_of(later);
        const std::byte* there = weights::Pass::peek(*next.chunk);
        part.next = there ? there + static_cast<size_t>(next.begin) * product_.weights.row_stride : nullptr;
    }
    kernels::multiply_weights(part, rows.begin, rows.end);
    pass_.done(*rows.chunk, rows.end - rows.begin);
}

}  // namespace atlas::host
