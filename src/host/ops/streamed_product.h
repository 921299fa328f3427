#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/weights.h"
#include "weights/streamer.h"

namespace atlas::host {

/**
 * A product whose weights are read from the model's file while it is computed. Its shares are rows of one chunk each, in the order in which chunks are
 * read; they begin at whole panels, so that results are those of the same weights in memory, bit for bit.
 */
class StreamedProduct {
public:
    /** At least `least` shares, if there are so many panels. All three outlive it. */
    StreamedProduct(const weights::Pass& pass, weights::StreamedWeight& weight, const kernels::WeightProduct& product,
                    int64_t least);

    int64_t shares() const { return pieces_ * static_cast<int64_t>(weight_.chunks.size()); }
    /** Waits for its chunk, and multiplies unless the pass has failed: Pass::status(). later: the share that the calling thread may come to next. */
    void multiply(int64_t share, int64_t later) const;

private:
    /** Rows within a chunk. */
    struct Rows {
        weights::Chunk* chunk;
        int64_t begin, end;
    };
    Rows rows_of(int64_t share) const;

    const weights::Pass& pass_;
    weights::StreamedWeight& weight_;
    const kernels::WeightProduct& product_;
    int64_t pieces_;  // of a chunk
};

}  // namespace atlas::host
