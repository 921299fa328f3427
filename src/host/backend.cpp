#include <ggml.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <exception>
#include <memory>
#include <new>
#include <span>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/parallel.h"
#include "host/abi/interfaces.h"
#include "host/device.h"
#include "host/graph/graph_plan.h"
#include "host/graph/op_kind.h"
#include "host/ops/attention.h"
#include "host/ops/cell_check.h"
#include "host/ops/delegate.h"
#include "host/ops/key_shift.h"
#include "host/ops/paged.h"
#include "host/ops/shadow.h"
#include "host/ops/speed_samples.h"
#include "runtime/collector.h"
#include "runtime/plugin_runtime.h"
#include "runtime/session.h"
#include "side_car/calibration.h"

namespace atlas::host {
namespace {

/** State of one backend instance: llama.cpp makes one per context, and calls it from one thread at a time. */
class Instance {
public:
    explicit Instance(std::shared_ptr<runtime::Runtime> runtime) : session_(std::move(runtime)) {}

    /** Nothing of ours may throw into the host. */
    ggml_status compute(ggml_cgraph* graph) noexcept {
        const ggml_status status = attempt(graph);
        // Cells that the graph changed in place, some before it failed and some not, belong to no state that the host knows of.
        if (status != GGML_STATUS_SUCCESS) {
            const Status reason(StatusCode::kInternal, {});
            for (const Changed& cells : changed_)
                cells.place.pages->mark_damaged(cells.place.offset, cells.bytes, reason);
        }
        return status;
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
    /** Bytes of a cache. */
    struct Changed {
        Placement place;
        size_t bytes;
    };

    ggml_status attempt(ggml_cgraph* graph) noexcept {
        try {
            changed_.clear();
            return run(graph);
        } catch (const std::bad_alloc&) {
            log().error("graph of {} nodes: no memory left", ggml_graph_n_nodes(graph));
            return GGML_STATUS_ALLOC_FAILED;
        } catch (const std::exception& error) {
            log().error("graph of {} nodes: {}", ggml_graph_n_nodes(graph), error.what());
            return GGML_STATUS_FAILED;
        }
    }

    ggml_status run(ggml_cgraph* graph) {
        session_.begin_graph();
        if (!session_.is_observed()) return run_plan(graph);
        const auto begin = std::chrono::steady_clock::now();
        const ggml_status status = run_plan(graph);
        if (status != GGML_STATUS_SUCCESS) return status;
        const GraphPlan::Counts& counts = plan_.counts();
        runtime::Work work;
        work.own_nodes = counts.own;
        work.host_nodes = counts.host;
        work.products = counts.products;
        work.sparse_products = mat_mul_.sparse_products();
        work.rounded_products = mat_mul_.rounded_products();
        work.streamed_products = mat_mul_.streamed_products();
        work.sparse_bytes = mat_mul_.sparse_bytes().all;
        work.sparse_bytes_read = mat_mul_.sparse_bytes().read;
        work.column_bytes = mat_mul_.column_bytes();
        work.products_by_host = counts.products_by_host;
        work.attention_by_host = counts.attention_by_host;
        work.scratch_bytes = mat_mul_.scratch_bytes() + delegate_.scratch_bytes();
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
        samples_.end_graph(seconds.count(), &work);
        session_.end_graph(work);
        return status;
    }

    ggml_status run_plan(ggml_cgraph* graph) {
        rope_.begin_graph();
        write_clock().advance();
        plan_.build(graph, {session_.own_attention(), session_.own_weights()});
        const size_t sampled = choose_sample();
        if (kv_budget().limit() > 0) {
            for (const Step& step : plan_.steps()) {
                if (step.is_attention()) note_live_cells(step.node);
            }
        }
        const std::span<const Step> steps = plan_.steps();
        products_.clear();
        for (const Step& step : steps) {
            if (step.kind != StepKind::kOwn) continue;
            const OpKind kind = op_kind(step.node->op);
            if (kind == OpKind::kMatMul || kind == OpKind::kMatMulId) products_.push_back(step.node);
        }
        if (runtime::RamShares* shares = session_.runtime().ram_shares()) shares->settle(written_bytes(steps));
        if (const Status status = mat_mul_.begin_graph({session_.streamer(), session_.formats()}, products_,
                                                       input_use(), threads());
            !status.is_ok())
            return failed(status);
        // Other graphs wait for the end of this one, whatever it throws.
        struct End {
            ~End() { mat_mul.leave_graph(); }
            MatMul& mat_mul;
        } const end{mat_mul_};
        const ggml_status status = run_all(steps, sampled);
        if (status == GGML_STATUS_SUCCESS) say_if_all_was_read();
        const Status weights = mat_mul_.end_graph();
        return status == GGML_STATUS_SUCCESS && !weights.is_ok() ? failed(weights) : status;
    }

    /** What a graph writes into caches by the numbers of their cells, which is all but a few of its writes there. */
    static uint64_t written_bytes(std::span<const Step> steps) {
        uint64_t bytes = 0;
        for (const Step& step : steps) {
            if (step.kind != StepKind::kOwn || op_kind(step.node->op) != OpKind::kSetRows) continue;
            bytes +=
                ggml_row_size(step.node->type, step.node->ne[0]) * static_cast<size_t>(ggml_nrows(step.node->src[0]));
        }
        return bytes;
    }

    ggml_status run_all(std::span<const Step> steps, size_t sampled) {
        for (size_t begin = 0; begin < steps.size();) {
            size_t end = begin + 1;
            ggml_status status = GGML_STATUS_SUCCESS;
            if (begin == sampled) {
                status = run_sampled(steps[begin]);
            } else if (is_ours_alone(steps[begin])) {
                while (end < steps.size() && end != sampled && is_ours_alone(steps[end])) ++end;
                with_team(end - begin > 1 ? threads() : 1,
                          [&] { status = run_steps(steps.subspan(begin, end - begin)); });
            } else {
                status = run_steps(steps.subspan(begin, 1));
            }
            if (status != GGML_STATUS_SUCCESS) return status;
            begin = end;
        }
        return GGML_STATUS_SUCCESS;
    }

    /** Number of the step whose operation by the host is timed beside ours; beyond all of them if there is none. */
    size_t choose_sample() {
        // The host would read streamed weights where they are mapped.
        const runtime::Runtime& runtime = session_.runtime();
        if (!session_.is_observed() || runtime.options().page_all || session_.streamer()) return SIZE_MAX;
        samples_.begin_graph(plan_.steps());
        return samples_.step();
    }

    ggml_status run_sampled(const Step& step) {
        ggml_status status = GGML_STATUS_SUCCESS;
        samples_.run(step, threads(), [&] {
            status = run_steps({&step, 1});
            if (!step.is_attention())
                return mat_mul_.was_sparse() ? runtime::Module::kActivationSparsity : runtime::Module::kWeights;
            return session_.last_estimated() ? runtime::Module::kSparseAttention : runtime::Module::kExactAttention;
        });
        return status;
    }

    /** Whether the host's threads are not needed for it. */
    bool is_ours_alone(const Step& step) {
        return step.kind == StepKind::kOwn ||
               (step.kind == StepKind::kDelegated && CpuDelegate::is_small(plan_.delegated(step)));
    }

    ggml_status run_steps(std::span<const Step> steps) {
        for (const Step& step : steps) {
            if (step.kind != StepKind::kDelegated && aborted()) return GGML_STATUS_ABORTED;
            if (const ggml_status status = run(step); status != GGML_STATUS_SUCCESS) return status;
        }
        return GGML_STATUS_SUCCESS;
    }

    ggml_status run(const Step& step) {
        switch (step.kind) {
            case StepKind::kOwn:
                return run_own(step);
            case StepKind::kDelegated:
                return delegate_.run(plan_.delegated(step));
            case StepKind::kPaged:
                if (const Status status = check_operands(step.node); !status.is_ok()) return failed(step, status);
                changes_in_place(step.node);
                return run_paged(step.node, delegate_);
            case StepKind::kKeyShift:
                changes_in_place(step.node);
                return run_key_shift(plan_.chain(step), delegate_);
        }
        return GGML_STATUS_FAILED;
    }

    void changes_in_place(const ggml_tensor* node) {
        if (const Placement place = placement_of(node); place.pages) changed_.push_back({place, ggml_nbytes(node)});
    }

    /** Not of operands that are copied out of pages for a call: their weights are at other addresses each time. */
    double left_out() const { return session_.runtime().options().page_all ? 0.0 : session_.left_out(); }

    InputUse input_use() {
        InputUse use;
        use.left_out = left_out();
        if (use.left_out > 0.0) use.thresholds = session_.thresholds();
        if (side_car::Calibration* calibration = session_.runtime().calibration())
            use.magnitudes = &calibration->magnitudes();
        return use;
    }

    /** Once, where a token's products read every input although a share was to be left out. */
    void say_if_all_was_read() {
        if (left_out() <= 0.0 || said_all_was_read_ || mat_mul_.sparse_products() > 0) return;
        const bool left_to_host = session_.runtime().options().weights == WeightsMode::kHost;
        if (products_.empty() && !left_to_host) return;
        // A prompt reads all: it has a product of several columns with a tensor of the model.
        const auto is_of_prompt = [](const ggml_tensor* node) {
            return op_kind(node->op) == OpKind::kMatMul && node->src[0]->op == GGML_OP_NONE &&
                   ggml_nrows(node->src[1]) > 1;
        };
        if (std::any_of(products_.begin(), products_.end(), is_of_prompt)) return;
        said_all_was_read_ = true;
        log().warn("activation sparsity takes no part in a context: {}",
                   left_to_host ? "ATLAS_WEIGHTS=host leaves weights to the program's CPU backend"
                   : session_.runtime().streamer()
                       ? "with ATLAS_WEIGHTS_RAM or ATLAS_RAM weights are read from their file row by row"
                       : "no product behind a gated unit has weights in f16, bf16 or f32");
    }

    static ggml_status failed(const Status& status) {
        log().error("weights: {}", status.to_string());
        return GGML_STATUS_FAILED;
    }

    static ggml_status failed(const Step& step, const Status& status) {
        log().error("{} of '{}': {}", ggml_op_name(step.node->op), step.node->name, status.to_string());
        return status.code() == StatusCode::kOutOfMemory ? GGML_STATUS_ALLOC_FAILED : GGML_STATUS_FAILED;
    }

    bool aborted() const { return abort_callback_ && abort_callback_(abort_data_); }

    int threads() const {
        if (const int asked = session_.options().threads; asked > 0) return asked;
        return host_threads_ > 0 ? host_threads_ : max_threads();
    }

    ggml_status run_own(const Step& step) {
        const ggml_tensor* node = step.node;
        if (step.masks_changed) session_.masks_changed();
        Status status;
        try {
            if (step.is_attention()) status = check_attended(node);
            if (!status.is_ok()) return failed(step, status);
            // Only ATLAS_PAGE_ALL puts anything but caches into pages.
            status = session_.runtime().options().page_all ? run_shadowed(step)
                                                           : step.op->run(node, context(step.next_product));
        } catch (const std::bad_alloc&) {
            log().error("{} of '{}': no memory left", step.op->name, node->name);
            return GGML_STATUS_ALLOC_FAILED;
        }
        return status.is_ok() ? GGML_STATUS_SUCCESS : failed(step, status);
    }

    Status run_shadowed(const Step& step) {
        std::array<const ggml_tensor*, 2> in_pages;
        for (size_t i = 0; i < in_pages.size(); ++i) {
            const int operand = step.op->paged[i];
            in_pages[i] = operand == kResult ? step.node : operand == kNone ? nullptr : step.node->src[operand];
        }
        ShadowNode shadow(step.node, in_pages);
        if (!shadow.status().is_ok()) return shadow.status();
        if (Status status = step.op->run(shadow.node(), context(step.next_product)); !status.is_ok()) return status;
        return shadow.write_back();
    }

    OpContext context(const ggml_tensor* next_product) {
        return {attention_, mat_mul_, rope_, threads(), next_product};
    }

    CpuDelegate delegate_;
    runtime::Session session_;
    FlashAttention attention_{session_};
    MatMul mat_mul_;
    Rope rope_;
    GraphPlan plan_;
    SpeedSamples samples_{delegate_};
    std::vector<const ggml_tensor*> products_;  // with weights, of this graph
    std::vector<Changed> changed_;              // in place by this graph so far
    bool said_all_was_read_ = false;
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

std::shared_ptr<runtime::Runtime> runtime_of(bool self_test) {
    if (!self_test) return runtime::plugin_runtime();
    Options options = runtime::plugin_runtime()->options();
    options.sparse.mode = AttentionMode::kExact;
    options.memory.enabled = false;
    options.side_car.clear();
    options.stats.clear();
    return std::make_shared<runtime::Runtime>(options);
}

}  // namespace

ggml_backend_t create_backend(ggml_backend_dev_t device, bool self_test) {
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
        backend->context = std::make_unique<Instance>(runtime_of(self_test)).release();
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
