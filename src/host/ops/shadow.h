#pragma once

#include <ggml.h>

#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "host/buffers/owner_buffer.h"

namespace atlas::host {

/**
 * A copy of a node whose paged operands lie in ordinary memory: for everything that needs plain pointers. The bytes that the operation
 * can touch are copied out when it is made, and back by write_back. Throws std::bad_alloc.
 */
class ShadowNode {
public:
    /** Operands in `kept` (among them possibly the node itself) stay where they are. */
    ShadowNode(ggml_tensor* node, std::span<const ggml_tensor* const> kept);

    /** Whether the operands could be read; else the operation must not run. */
    const Status& status() const { return status_; }
    ggml_tensor* node() { return &node_; }

    /** Copies the result back into its pages; those that it leaves as they were count as not written. Errors: out of memory. */
    Status write_back() const;

private:
    /** Bytes of one paged tensor that the operation can touch, and the copy that it works on. */
    struct Window {
        kv::PageTable* pages;
        size_t begin;
        size_t end;
        std::vector<std::byte> copy;
    };

    bool is_kept(const ggml_tensor* tensor) const;
    void extend(const ggml_tensor* tensor);
    ggml_tensor shadow_of(const ggml_tensor* tensor);

    ggml_tensor* original_;
    Status status_;
    std::span<const ggml_tensor* const> kept_;
    ggml_tensor node_{};
    std::array<ggml_tensor, GGML_MAX_SRC> sources_{};
    std::vector<Window> windows_;
};

}  // namespace atlas::host
