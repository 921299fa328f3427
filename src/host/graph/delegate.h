#pragma once

#include <ggml-backend.h>
#include <ggml.h>

#include <cstddef>
#include <vector>

namespace atlas::host {

/**
 * Runs operations that are not Atlas's own on a CPU backend of the host. Operands in ordinary memory are used in place; for paged ones the
 * range that the operation can touch is copied out, the operation runs on the copy, and what it wrote is copied back, slice by slice.
 * One per backend instance; not thread-safe.
 */
class CpuDelegate {
public:
    CpuDelegate();
    ~CpuDelegate();
    CpuDelegate(const CpuDelegate&) = delete;
    CpuDelegate& operator=(const CpuDelegate&) = delete;

    /** Whether the host's CPU device can compute the operation. */
    static bool supports(const ggml_tensor* op);

    void set_n_threads(int n_threads);
    void set_abort_callback(ggml_abort_callback callback, void* data);

    /** Runs nodes in order as one graph; none may have a paged operand. */
    ggml_status run(const std::vector<ggml_tensor*>& nodes);
    /** Runs one node with paged operands. */
    ggml_status run_paged(ggml_tensor* node);

private:
    bool prepare();

    ggml_backend_t cpu_ = nullptr;
    int n_threads_ = 0;
    ggml_abort_callback abort_callback_ = nullptr;
    void* abort_data_ = nullptr;
    std::vector<std::byte> graph_memory_;
};

}  // namespace atlas::host
