#pragma once

#include <ggml.h>

#include <cstdint>
#include <vector>

#include "host/graph/delegate.h"

namespace atlas::host {

/**
 * Nodes that decode a quantised paged cache to f32, compute with it cell by cell and write it back in place: what the host does to all of K
 * when positions shift (decode, rotate back, embed the shift, rotate, encode). They run together over some cells at a time, so that the
 * decoded K of a layer (4 bytes a value: more than the cache itself) never exists, and the memory that the host gave the results between
 * is not touched.
 */
class CacheChain {
public:
    /** Finds the chain that begins with node `first` of a graph. */
    CacheChain(ggml_cgraph* graph, int first);

    /** Nodes of the graph from the first to the last, views of other tensors among them included; 0: no chain begins there. */
    int length() const { return length_; }

    /** Runs it whole. Throws std::bad_alloc. */
    ggml_status run(CpuDelegate& delegate) const;

private:
    bool append(ggml_tensor* node);
    bool is_read_elsewhere(ggml_cgraph* graph) const;

    std::vector<ggml_tensor*> nodes_;  // each works on the result of the one before
    int64_t cells_ = 0;
    int length_ = 0;
};

}  // namespace atlas::host
