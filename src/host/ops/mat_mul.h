#pragma once

#include <ggml.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/status.h"
#include "kernels/weights.h"

namespace atlas::host {

/** Whether the operand is a weight of the model that the host may lay into the buffer type of ATLAS0, or has. */
bool is_weight(const ggml_tensor* operand);

/**
 * Unsupported and the reason, unless the node is a product of one matrix of a type with kernels (GGUF's own blocks) and contiguous f32 columns. By
 * types and shapes alone.
 */
Status check_mat_mul(const ggml_tensor* node);

/** MUL_MAT of one backend instance. Columns are quantised once for all products that follow each other with the same ones (Q, K, V; gate, up). */
class MatMul {
public:
    /** Activations of an earlier graph are forgotten: other values may lie there now. */
    void begin_graph() { columns_ = nullptr; }
    size_t scratch_bytes() const { return memory_.capacity(); }
    /** The node passed check_mat_mul, and so did `next`, which will be run after it, if it is not null. Throws std::bad_alloc. */
    Status run(const ggml_tensor* node, const ggml_tensor* next, int n_threads);

private:
    void multiply(const ggml_tensor* node, const ggml_tensor* next, int64_t first, int64_t n, int n_threads);

    const ggml_tensor* columns_ = nullptr;  // that `memory_` holds, quantised
    kernels::ActivationType type_ = kernels::ActivationType::kF32;
    std::vector<std::byte> memory_;
};

}  // namespace atlas::host
