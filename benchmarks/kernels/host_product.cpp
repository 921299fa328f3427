#include "host_product.h"

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "bench.h"

namespace {

[[noreturn]] void die(const char* what) {
    std::fprintf(stderr, "bench_weights: %s\n", what);
    std::exit(1);
}

ggml_type type_of(const std::string& name) {
    for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
        const char* known = ggml_type_name(static_cast<ggml_type>(i));
        if (known != nullptr && name == known) return static_cast<ggml_type>(i);
    }
    die("ggml does not know this type");
}

}  // namespace

struct HostProduct::State {
    ggml_backend_t backend = nullptr;
    ggml_context* context = nullptr;
    ggml_backend_buffer_t weights_buffer = nullptr, buffer = nullptr;
    ggml_cgraph* graph = nullptr;
    ggml_tensor *w = nullptr, *x = nullptr, *out = nullptr;
};

HostProduct::HostProduct(const std::string& name, int64_t rows, int64_t cols, int64_t n, int threads, bool keep)
    : state_(std::make_unique<State>()) {
    State& t = *state_;
    const ggml_type type = type_of(name);
    // A few hundred different rows, again and again: quantising is slow.
    const int64_t different = std::min<int64_t>(rows, 256);
    const size_t row = ggml_row_size(type, cols);
    weights_.resize(row * static_cast<size_t>(rows));
    const std::vector<float> values = fast_normal(static_cast<size_t>(different * cols), 1);
    if (type == GGML_TYPE_F32) {
        std::memcpy(weights_.data(), values.data(), values.size() * sizeof(float));
    } else {
        ggml_quantize_chunk(type, values.data(), weights_.data(), 0, different, cols, nullptr);
    }
    for (int64_t r = different; r < rows; ++r)
        std::memcpy(weights_.data() + static_cast<size_t>(r) * row,
                    weights_.data() + static_cast<size_t>(r % different) * row, row);
    x_ = fast_normal(static_cast<size_t>(n * cols), 2);
    if (!keep) return;

    t.backend = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr);
    if (t.backend == nullptr) die("ggml has no CPU backend");
    ggml_backend_dev_t device = ggml_backend_get_device(t.backend);
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(device);
    auto set_threads = reinterpret_cast<ggml_backend_set_n_threads_t>(
        ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads"));
    if (set_threads == nullptr) die("the CPU backend cannot set threads");
    set_threads(t.backend, threads);

    t.context = ggml_init({ggml_tensor_overhead() * 16 + ggml_graph_overhead(), nullptr, true});
    t.w = ggml_new_tensor_2d(t.context, type, cols, rows);
    t.x = ggml_new_tensor_2d(t.context, GGML_TYPE_F32, cols, n);
    t.out = ggml_mul_mat(t.context, t.w, t.x);
    t.graph = ggml_new_graph(t.context);
    ggml_build_forward_expand(t.graph, t.out);

    auto extra = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
        ggml_backend_reg_get_proc_address(reg, "ggml_backend_dev_get_extra_bufts"));
    for (ggml_backend_buffer_type_t* buft = extra != nullptr ? extra(device) : nullptr;
         buft != nullptr && *buft != nullptr; ++buft) {
        ggml_backend_buffer_t buffer =
            ggml_backend_buft_alloc_buffer(*buft, ggml_backend_buft_get_alloc_size(*buft, t.w));
        if (buffer == nullptr) continue;
        t.w->buffer = buffer;
        if (ggml_backend_dev_supports_op(device, t.out)) {
            t.w->buffer = nullptr;
            t.weights_buffer = buffer;
            break;
        }
        t.w->buffer = nullptr;
        ggml_backend_buffer_free(buffer);
    }
    if (t.weights_buffer == nullptr) {
        ggml_backend_buffer_type_t buft = ggml_backend_get_default_buffer_type(t.backend);
        t.weights_buffer = ggml_backend_buft_alloc_buffer(buft, ggml_backend_buft_get_alloc_size(buft, t.w));
    }
    if (t.weights_buffer == nullptr) die("out of memory");
    ggml_backend_buffer_set_usage(t.weights_buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    ggml_backend_tensor_alloc(t.weights_buffer, t.w, ggml_backend_buffer_get_base(t.weights_buffer));
    t.buffer = ggml_backend_alloc_ctx_tensors(t.context, t.backend);
    if (t.buffer == nullptr) die("out of memory");
    ggml_backend_tensor_set(t.w, weights_.data(), 0, weights_.size());
    ggml_backend_tensor_set(t.x, x_.data(), 0, x_.size() * sizeof(float));
}

HostProduct::~HostProduct() {
    ggml_backend_buffer_free(state_->weights_buffer);
    ggml_backend_buffer_free(state_->buffer);
    ggml_free(state_->context);
    if (state_->backend != nullptr) ggml_backend_free(state_->backend);
}

void HostProduct::run() {
    if (ggml_backend_graph_compute(state_->backend, state_->graph) != GGML_STATUS_SUCCESS)
        die("the CPU backend failed");
}

const std::vector<float>& HostProduct::out() {
    out_.resize(static_cast<size_t>(ggml_nelements(state_->out)));
    ggml_backend_tensor_get(state_->out, out_.data(), 0, out_.size() * sizeof(float));
    return out_;
}

const char* HostProduct::buffer() const { return ggml_backend_buffer_name(state_->weights_buffer); }
