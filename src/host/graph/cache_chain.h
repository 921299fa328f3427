#pragma once

#include <ggml.h>

#include <cstdint>
#include <vector>

namespace atlas::host {

/**
 * Nodes that decode a quantised paged cache to f32, compute with it cell by cell and write it back in place: what the host does to all of K
 * when positions shift (decode, rotate back, embed the shift, rotate, encode). ops/key_shift.h runs them together.
 */
class CacheChain {
public:
    /** Finds the chain that begins with node `first` of a graph. Throws std::bad_alloc. */
    CacheChain(ggml_cgraph* graph, int first);

    /** Nodes of the graph from the first to the last, views of other tensors among them included; 0: no chain begins there. */
    int length() const { return length_; }
    /** Each works on the result of the one before. */
    const std::vector<ggml_tensor*>& nodes() const { return nodes_; }
    /** Cells of the cache. */
    int64_t cells() const { return cells_; }

private:
    bool append(ggml_tensor* node);
    bool is_read_elsewhere(ggml_cgraph* graph) const;

    std::vector<ggml_tensor*> nodes_;
    int64_t cells_ = 0;
    int length_ = 0;
};

}  // namespace atlas::host
