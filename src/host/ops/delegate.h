#pragma once

#include <ggml-backend.h>
#include <ggml.h>

#include <cstddef>
#include <span>
#include <vector>

namespace atlas::host {

/**
 * Runs operations that are not Atlas's own on a CPU backend of the host. Operands lie in ordinary memory: ops/paged.h and ops/key_shift.h copy
 * out what lies in pages. One per backend instance; not thread-safe.
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

    /** Whether nodes, such as norms and sums of a token or a few, are sooner done than threads meet: they run on the calling thread. */
    static bool is_small(std::span<ggml_tensor* const> nodes);

    size_t scratch_bytes() const { return graph_memory_.capacity(); }
    /** Runs nodes in order as one graph; none may have a paged operand. */
    ggml_status run(std::span<ggml_tensor* const> nodes);
    /** A graph of next to nothing, on as many threads as any: what a graph takes by itself. */
    ggml_status run_nothing();

private:
    bool prepare();
    ggml_status run_graph(std::span<ggml_tensor* const> nodes, int n_threads);

    ggml_backend_t cpu_ = nullptr;
    using SetThreads = void (*)(ggml_backend_t, int);
    void use_threads(int n_threads);
    SetThreads set_threads_ = nullptr;
    int threads_in_use_ = 0;
    int n_threads_ = 0;
    ggml_abort_callback abort_callback_ = nullptr;
    void* abort_data_ = nullptr;
    std::vector<std::byte> graph_memory_;
};

}  // namespace atlas::host
