#include "host/graph/delegate.h"

#include <new>

#include "base/log.h"
#include "host/graph/ops.h"
#include "host/buffers/owner_buffer.h"
#include "host/graph/shadow.h"
#include "host/graph/slices.h"

namespace atlas::host {
namespace {

ggml_backend_dev_t cpu_device() {
    static ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    return device;
}

/** Whether the node turns keys in place where none were ever stored: zeros stay zeros. */
bool turns_nothing(const ggml_tensor* node) {
    if (op_kind(node->op) != OpKind::kRope) return false;
    const Placement from = placement_of(node->src[0]);
    const Placement to = placement_of(node);
    return from.pages && from.pages == to.pages && from.offset == to.offset &&
           to.pages->is_unmade(to.offset, ggml_nbytes(node));
}

}  // namespace

CpuDelegate::CpuDelegate() = default;

CpuDelegate::~CpuDelegate() {
    if (cpu_) ggml_backend_free(cpu_);
}

bool CpuDelegate::supports(const ggml_tensor* op) {
    return cpu_device() && ggml_backend_dev_supports_op(cpu_device(), op);
}

bool CpuDelegate::prepare() {
    if (cpu_) return true;
    if (cpu_device()) cpu_ = ggml_backend_dev_init(cpu_device(), nullptr);
    if (!cpu_) {
        log().error("operations beside attention need the host's CPU backend, and none could be started");
        return false;
    }
    if (n_threads_ > 0) set_n_threads(n_threads_);
    if (abort_callback_) set_abort_callback(abort_callback_, abort_data_);
    return true;
}

void CpuDelegate::set_n_threads(int n_threads) {
    n_threads_ = n_threads;
    if (!cpu_) return;
    using SetThreads = void (*)(ggml_backend_t, int);
    const auto set = reinterpret_cast<SetThreads>(
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu_device()), "ggml_backend_set_n_threads"));
    if (set) set(cpu_, n_threads);
}

void CpuDelegate::set_abort_callback(ggml_abort_callback callback, void* data) {
    abort_callback_ = callback;
    abort_data_ = data;
    if (!cpu_) return;
    using SetAbort = void (*)(ggml_backend_t, ggml_abort_callback, void*);
    const auto set = reinterpret_cast<SetAbort>(ggml_backend_reg_get_proc_address(
        ggml_backend_dev_backend_reg(cpu_device()), "ggml_backend_set_abort_callback"));
    if (set) set(cpu_, callback, data);
}

ggml_status CpuDelegate::run(const std::vector<ggml_tensor*>& nodes) {
    if (nodes.empty()) return GGML_STATUS_SUCCESS;
    if (!prepare()) return GGML_STATUS_FAILED;
    graph_memory_.resize(ggml_graph_overhead_custom(nodes.size(), false) + ggml_tensor_overhead());
    ggml_context* context = ggml_init({graph_memory_.size(), graph_memory_.data(), true});
    if (!context) return GGML_STATUS_ALLOC_FAILED;
    ggml_cgraph* graph = ggml_new_graph_custom(context, nodes.size(), false);
    for (ggml_tensor* node : nodes) ggml_graph_add_node(graph, node);
    const ggml_status status = ggml_backend_graph_compute(cpu_, graph);
    ggml_free(context);
    return status;
}

ggml_status CpuDelegate::run_paged(ggml_tensor* node) {
    try {
        Slices slices(node);
        while (ggml_tensor* slice = slices.next()) {
            if (turns_nothing(slice)) continue;
            ShadowNode shadow(slice, {});
            if (const ggml_status status = run({shadow.node()}); status != GGML_STATUS_SUCCESS) return status;
            if (const Status written = shadow.write_back(); !written.is_ok()) {
                log().error("{} into '{}': {}", ggml_op_name(node->op), node->name, written.to_string());
                return GGML_STATUS_ALLOC_FAILED;
            }
        }
        return GGML_STATUS_SUCCESS;
    } catch (const std::bad_alloc&) {
        log().error("{} on '{}': no memory for a copy of its operands", ggml_op_name(node->op), node->name);
        return GGML_STATUS_ALLOC_FAILED;
    }
}

}  // namespace atlas::host
