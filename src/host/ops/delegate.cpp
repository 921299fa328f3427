#include "host/ops/delegate.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "base/log.h"
#include "host/graph/op_kind.h"

namespace atlas::host {
namespace {

constexpr int64_t kSmallNode = 32 * 1024;  // elements

ggml_backend_dev_t cpu_device() {
    static ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    return device;
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
    set_threads_ = reinterpret_cast<SetThreads>(
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu_device()), "ggml_backend_set_n_threads"));
    if (n_threads_ > 0) set_n_threads(n_threads_);
    if (abort_callback_) set_abort_callback(abort_callback_, abort_data_);
    return true;
}

void CpuDelegate::set_n_threads(int n_threads) {
    n_threads_ = n_threads;
    use_threads(n_threads);
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

void CpuDelegate::use_threads(int n_threads) {
    if (!cpu_ || !set_threads_ || n_threads == threads_in_use_) return;
    set_threads_(cpu_, n_threads);
    threads_in_use_ = n_threads;
}

bool CpuDelegate::is_small(std::span<ggml_tensor* const> nodes) {
    const auto small = [](const ggml_tensor* tensor) { return !tensor || ggml_nelements(tensor) <= kSmallNode; };
    return std::all_of(nodes.begin(), nodes.end(), [&](const ggml_tensor* node) {
        if (op_kind(node->op) == OpKind::kMatMul || !small(node)) return false;
        // Of a table only rows are read; any other operation may read all that it is given.
        return op_kind(node->op) == OpKind::kGetRows || std::all_of(std::begin(node->src), std::end(node->src), small);
    });
}

ggml_status CpuDelegate::run(std::span<ggml_tensor* const> nodes) {
    return nodes.empty() ? GGML_STATUS_SUCCESS : run_graph(nodes, is_small(nodes) ? 1 : n_threads_);
}

ggml_status CpuDelegate::run_nothing() {
    // Of the operations that the host gives to all threads; those without work get one.
    constexpr int64_t kElements = 8;
    std::array<float, kElements> values{};
    ggml_tensor sum{};
    sum.type = GGML_TYPE_F32;
    sum.op = GGML_OP_ADD;
    for (size_t i = 0; i < GGML_MAX_DIMS; ++i) {
        sum.ne[i] = i == 0 ? kElements : 1;
        sum.nb[i] = i == 0 ? sizeof(float) : sizeof values;
    }
    sum.data = values.data();
    ggml_tensor operand = sum;
    operand.op = GGML_OP_NONE;
    sum.src[0] = sum.src[1] = &operand;
    ggml_tensor* nodes[] = {&sum};
    return run_graph(nodes, n_threads_);
}

ggml_status CpuDelegate::run_graph(std::span<ggml_tensor* const> nodes, int n_threads) {
    if (!prepare()) return GGML_STATUS_FAILED;
    if (n_threads_ > 0) use_threads(n_threads);
    graph_memory_.resize(ggml_graph_overhead_custom(nodes.size(), false) + ggml_tensor_overhead());
    ggml_context* context = ggml_init({graph_memory_.size(), graph_memory_.data(), true});
    if (!context) return GGML_STATUS_ALLOC_FAILED;
    ggml_cgraph* graph = ggml_new_graph_custom(context, nodes.size(), false);
    for (ggml_tensor* node : nodes) ggml_graph_add_node(graph, node);
    const ggml_status status = ggml_backend_graph_compute(cpu_, graph);
    ggml_free(context);
    return status;
}

}  // namespace atlas::host
