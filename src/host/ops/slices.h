#pragma once

#include <ggml.h>

#include <array>
#include <cstdint>

namespace atlas::host {

/**
 * A node cut along its outermost dimension into nodes that together do the same: what works on paged operands through copies of them then
 * needs room for a slice, not for the KV of a layer. Copies and rotary embeddings can be cut, which is what the host does to a whole cache
 * when positions shift (K in place; quantised K by way of f32). Any other node is one slice.
 */
class Slices {
public:
    explicit Slices(ggml_tensor* node);
    Slices(const Slices&) = delete;
    Slices& operator=(const Slices&) = delete;

    /** The next slice, valid until the next call; nullptr after the last. */
    ggml_tensor* next();

private:
    ggml_tensor* whole_;
    int dimension_ = -1;  // -1: not cut
    int64_t step_ = 1;    // indices of the dimension per slice
    int64_t done_ = 0;
    ggml_tensor node_{};
    std::array<ggml_tensor, GGML_MAX_SRC> sources_{};
};

}  // namespace atlas::host
