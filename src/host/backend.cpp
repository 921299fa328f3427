#include <ggml.h>
#include <omp.h>

#include <exception>
#include <memory>
#include <new>
#include <vector>

#include "base/log.h"
#include "base/options.h"
#include "host/abi/interfaces.h"
#include "host/graph/cache_chain.h"
#include "host/graph/delegate.h"
#include "host/device.h"
#include "host/ops/attention.h"
#include "host/graph/ops.h"
#include "host/buffers/owner_buffer.h"
#include "host/ops/set_rows.h"
#include "host/graph/shadow.h"
#include "runtime/collector.h"
#include "runtime/session.h"

namespace atlas::host {
namespace {

/** State of one backend instance: llama.cpp makes one per context, and calls it from one thread at a time. */
class Instance {
public:
    /** Nothing of ours may throw into the host. */
    ggml_status compute(ggml_cgraph* graph) noexcept {
        try {
            return run(graph);
        } catch (const std::bad_alloc&) {
            log().error("graph of {} nodes: no memory left", ggml_graph_n_nodes(graph));
            waiting_.clear();
            return GGML_STATUS_ALLOC_FAILED;
        } catch (const std::exception& error) {
            log().error("graph of {} nodes: {}", ggml_graph_n_nodes(graph), error.what());
            waiting_.clear();
            return GGML_STATUS_FAILED;
        }
    }

    runtime::Session& session() { return session_; }

    void set_n_threads(int n_threads) {
        host_threads_ = n_threads;
        delegate_.set_n_threads(n_threads);
    }

    void set_abort_callback(ggml_abort_callback callback, void* data) {
        abort_callback_ = callback;
        abort_data_ = data;
        delegate_.set_abort_callback(callback, data);
    }

private:
    ggml_status run(ggml_cgraph* graph) {
        session_.begin_graph();
        ggml_status status = GGML_STATUS_SUCCESS;
        const int n_nodes = ggml_graph_n_nodes(graph);
        for (int i = 0; i < n_nodes && status == GGML_STATUS_SUCCESS; ++i) {
            ggml_tensor* node = ggml_graph_node(graph, i);
            if (is_empty(node)) continue;
            const OpKind kind = op_kind(node->op);
            if (kind == OpKind::kView) continue;
            const bool own = kind == OpKind::kSetRows || kind == OpKind::kFlashAttention;
            if (!own && !touches_pages(node)) {
                waiting_.push_back(node);
                continue;
            }
            status = flush();
            if (status != GGML_STATUS_SUCCESS) break;
            if (aborted()) return GGML_STATUS_ABORTED;
            if (const CacheChain chain(graph, i); chain.length() > 0) {
                status = chain.run(delegate_);
                i += chain.length() - 1;
                continue;
            }
            status = own ? run_own(node, kind) : delegate_.run_paged(node);
        }
        const ggml_status flushed = status == GGML_STATUS_SUCCESS ? flush() : status;
        waiting_.clear();
        return flushed;
    }

    static bool is_empty(const ggml_tensor* node) { return ggml_is_empty(node); }

    bool aborted() const { return abort_callback_ && abort_callback_(abort_data_); }

    int threads() const {
        if (options().threads > 0) return options().threads;
        return host_threads_ > 0 ? host_threads_ : omp_get_max_threads();
    }

    ggml_status flush() {
        const ggml_status status = delegate_.run(waiting_);
        waiting_.clear();
        return status;
    }

    /** Runs one of Atlas's own operations: K, V and the rows written may lie in pages, every other operand is read by pointer. */
    Status run_in_place(const ggml_tensor* node, OpKind kind) {
        return kind == OpKind::kSetRows ? set_rows(node, threads()) : attention_.run(node, threads());
    }

    Status run_shadowed(ggml_tensor* node, OpKind kind) {
        const ggml_tensor* const in_pages[] = {kind == OpKind::kSetRows ? node : node->src[1], node->src[2]};
        ShadowNode shadow(node, in_pages);
        if (Status status = run_in_place(shadow.node(), kind); !status.is_ok()) return status;
        return shadow.write_back();
    }

    ggml_status run_own(ggml_tensor* node, OpKind kind) {
        Status status;
        try {
            // Only ATLAS_PAGE_ALL puts anything but caches into pages.
            status = options().page_all ? run_shadowed(node, kind) : run_in_place(node, kind);
        } catch (const std::bad_alloc&) {
            log().error("{} of '{}': no memory left", ggml_op_name(node->op), node->name);
            return GGML_STATUS_ALLOC_FAILED;
        }
        if (status.is_ok()) return GGML_STATUS_SUCCESS;
        log().error("{} of '{}': {}", ggml_op_name(node->op), node->name, status.to_string());
        return status.code() == StatusCode::kOutOfMemory ? GGML_STATUS_ALLOC_FAILED : GGML_STATUS_FAILED;
    }

    CpuDelegate delegate_;
    runtime::Session session_;
    FlashAttention attention_{session_};
    std::vector<ggml_tensor*> waiting_;  // consecutive nodes for the delegate
    int host_threads_ = 0;
    ggml_abort_callback abort_callback_ = nullptr;
    void* abort_data_ = nullptr;
};

Instance& instance_of(ggml_backend_t backend) {
    return *static_cast<Instance*>(reinterpret_cast<abi::Backend*>(backend)->context);
}

const char* backend_name(ggml_backend_t backend) {
    return ggml_backend_dev_name(reinterpret_cast<abi::Backend*>(backend)->device);
}

void backend_free(ggml_backend_t backend) {
    delete &instance_of(backend);
    delete reinterpret_cast<abi::Backend*>(backend);
}

// Nothing is ever under way when the host can ask. What counts is who asked: the C API finds a context's sessions by it.
void backend_synchronize(ggml_backend_t backend) { runtime::Collector::reached(instance_of(backend).session()); }

ggml_status backend_graph_compute(ggml_backend_t backend, ggml_cgraph* graph) {
    return instance_of(backend).compute(graph);
}

}  // namespace

ggml_backend_t create_backend(ggml_backend_dev_t device) {
    static ggml_guid guid = {0x61, 0x74, 0x6c, 0x61, 0x73, 0x2d, 0x6b, 0x76,
                             0x9e, 0x1b, 0x52, 0x07, 0xd4, 0x33, 0xa8, 0x5c};
    try {
        auto backend = std::make_unique<abi::Backend>();
        backend->guid = &guid;
        backend->iface.get_name = backend_name;
        backend->iface.free = backend_free;
        backend->iface.synchronize = backend_synchronize;
        backend->iface.graph_compute = backend_graph_compute;
        backend->device = device;
        backend->context = std::make_unique<Instance>().release();
        return reinterpret_cast<ggml_backend_t>(backend.release());
    } catch (const std::bad_alloc&) {
        log().error("a backend instance: no memory left");
        return nullptr;
    }
}

void backend_set_n_threads(ggml_backend_t backend, int n_threads) { instance_of(backend).set_n_threads(n_threads); }

void backend_set_abort_callback(ggml_backend_t backend, ggml_abort_callback callback, void* data) {
    instance_of(backend).set_abort_callback(callback, data);
}

}  // namespace atlas::host
