#include "host/delegate.h"

#include <algorithm>
#include <array>
#include <memory>

#include "base/log.h"
#include "host/owner_buffer.h"

namespace atlas::host {
namespace {

ggml_backend_dev_t cpu_device() {
    static ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    return device;
}

/** Bytes of a tensor of pages that one operation can touch, and the copy it works on. */
struct Window {
    kv::PagedTensor* pages;
    size_t begin;
    size_t end;
    std::vector<std::byte> copy;
};

/** Shadows of one node and of its operands, whose paged data point into windows. */
class ShadowNode {
public:
    explicit ShadowNode(ggml_tensor* node) : original_(node) {
        extend(node);
        for (const ggml_tensor* src : node->src) {
            if (src) extend(src);
        }
        for (Window& window : windows_) {
            window.copy.resize(window.end - window.begin + kSlack);
            window.pages->read(window.begin, window.copy.data(), window.end - window.begin);
        }
        node_ = shadow_of(node);
        for (int i = 0; i < GGML_MAX_SRC; ++i) {
            if (!node->src[i]) continue;
            sources_[i] = shadow_of(node->src[i]);
            node_.src[i] = &sources_[i];
        }
    }

    ggml_tensor* node() { return &node_; }

    Status write_back() const {
        const Placement place = placement_of(original_);
        if (!place.pages) return Status::ok();
        const Window& window = *std::find_if(windows_.begin(), windows_.end(), [&](const Window& w) { return w.pages == place.pages; });
        const size_t bytes = ggml_nbytes(original_);
        return place.pages->write(place.offset, window.copy.data() + (place.offset - window.begin), bytes);
    }

private:
    // Vector loops of the host may read a few bytes past the end of an operand.
    static constexpr size_t kSlack = 64;

    void extend(const ggml_tensor* tensor) {
        const Placement place = placement_of(tensor);
        if (!place.pages) return;
        const size_t end = place.offset + ggml_nbytes(tensor);
        for (Window& window : windows_) {
            if (window.pages != place.pages) continue;
            window.begin = std::min(window.begin, place.offset);
            window.end = std::max(window.end, end);
            return;
        }
        windows_.push_back({place.pages, place.offset, end, {}});
    }

    ggml_tensor shadow_of(const ggml_tensor* tensor) {
        ggml_tensor shadow = *tensor;
        const Placement place = placement_of(tensor);
        if (!place.pages) return shadow;
        for (Window& window : windows_) {
            if (window.pages == place.pages) shadow.data = window.copy.data() + (place.offset - window.begin);
        }
        shadow.buffer = nullptr;
        shadow.view_src = nullptr;
        shadow.extra = nullptr;
        return shadow;
    }

    ggml_tensor* original_;
    ggml_tensor node_{};
    std::array<ggml_tensor, GGML_MAX_SRC> sources_{};
    std::vector<Window> windows_;
};

}  // namespace

CpuDelegate::CpuDelegate() = default;

CpuDelegate::~CpuDelegate() {
    if (cpu_) ggml_backend_free(cpu_);
}

bool CpuDelegate::supports(const ggml_tensor* op) { return cpu_device() && ggml_backend_dev_supports_op(cpu_device(), op); }

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
    const auto set = reinterpret_cast<SetAbort>(
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu_device()), "ggml_backend_set_abort_callback"));
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
        ShadowNode shadow(node);
        if (const ggml_status status = run({shadow.node()}); status != GGML_STATUS_SUCCESS) return status;
        if (const Status written = shadow.write_back(); !written.is_ok()) {
            log().error("{} into '{}': {}", ggml_op_name(node->op), node->name, written.to_string());
            return GGML_STATUS_ALLOC_FAILED;
        }
        return GGML_STATUS_SUCCESS;
    } catch (const std::bad_alloc&) {
        log().error("{} on '{}': no memory for a copy of its operands", ggml_op_name(node->op), node->name);
        return GGML_STATUS_ALLOC_FAILED;
    }
}

}  // namespace atlas::host
