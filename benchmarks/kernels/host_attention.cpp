#include "host_attention.h"

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "bench.h"

namespace {

[[noreturn]] void die(const char* what) {
    std::fprintf(stderr, "bench_attention: %s\n", what);
    std::exit(1);
}

ggml_type type_of(const std::string& name) {
    for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0,
                                 GGML_TYPE_Q4_1, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1, GGML_TYPE_IQ4_NL}) {
        if (name == ggml_type_name(type)) return type;
    }
    die("unknown KV type");
}

}  // namespace

struct HostAttention::State {
    ggml_backend_t backend = nullptr;
    ggml_context* context = nullptr;
    ggml_backend_buffer_t buffer = nullptr;
    ggml_cgraph* graph = nullptr;
    ggml_tensor *k = nullptr, *v = nullptr, *q = nullptr, *mask = nullptr, *out = nullptr;
};

HostAttention::HostAttention(const Shape& s, int threads) : state_(std::make_unique<State>()) {
    State& t = *state_;
    t.backend = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr);
    if (t.backend == nullptr) die("ggml has no CPU backend");
    ggml_backend_dev_t device = ggml_backend_get_device(t.backend);
    auto set_threads = reinterpret_cast<ggml_backend_set_n_threads_t>(
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), "ggml_backend_set_n_threads"));
    if (set_threads == nullptr) die("the CPU backend cannot set threads");
    set_threads(t.backend, threads);

    t.context = ggml_init({ggml_tensor_overhead() * 32 + ggml_graph_overhead(), nullptr, true});
    const ggml_type type = type_of(s.type);
    const int64_t n_head = s.n_head_kv * s.group;
    t.k = ggml_new_tensor_3d(t.context, type, s.d, s.n_head_kv, s.n_keys);
    t.v = ggml_new_tensor_3d(t.context, type, s.d, s.n_head_kv, s.n_keys);
    t.q = ggml_new_tensor_3d(t.context, GGML_TYPE_F32, s.d, n_head, s.n_tokens);
    t.mask = ggml_new_tensor_4d(t.context, GGML_TYPE_F16, s.n_keys, s.n_tokens, 1, 1);
    t.out = ggml_flash_attn_ext(t.context, ggml_permute(t.context, t.q, 0, 2, 1, 3),
                                ggml_permute(t.context, t.k, 0, 2, 1, 3), ggml_permute(t.context, t.v, 0, 2, 1, 3),
                                t.mask, 1.0f / std::sqrt(static_cast<float>(s.d)), 0.0f, 0.0f);
    if (!ggml_backend_dev_supports_op(device, t.out)) die("the CPU backend does not support this attention");
    t.graph = ggml_new_graph(t.context);
    ggml_build_forward_expand(t.graph, t.out);
    t.buffer = ggml_backend_alloc_ctx_tensors(t.context, t.backend);
    if (t.buffer == nullptr) die("out of memory");

    uint32_t seed = 1;
    for (ggml_tensor* tensor : {t.k, t.v, t.q}) {
        const std::vector<float> values = fast_normal(static_cast<size_t>(ggml_nelements(tensor)), seed++);
        ggml_quantize_chunk(tensor->type, values.data(), tensor->data, 0, ggml_nelements(tensor) / s.d, s.d, nullptr);
        if (tensor->type == GGML_TYPE_F32) std::copy(values.begin(), values.end(), static_cast<float*>(tensor->data));
    }
    auto* mask = static_cast<uint16_t*>(t.mask->data);
    for (int64_t token = 0; token < s.n_tokens; ++token) {
        for (int64_t key = 0; key < s.n_keys; ++key)
            mask[token * s.n_keys + key] = key > s.n_keys - s.n_tokens + token ? 0xFC00 : 0;
    }
}

HostAttention::~HostAttention() {
    ggml_backend_buffer_free(state_->buffer);
    ggml_free(state_->context);
    ggml_backend_free(state_->backend);
}

void HostAttention::run() {
    if (ggml_backend_graph_compute(state_->backend, state_->graph) != GGML_STATUS_SUCCESS)
        die("the CPU backend failed");
}

const std::byte* HostAttention::k() const { return static_cast<const std::byte*>(state_->k->data); }
const std::byte* HostAttention::v() const { return static_cast<const std::byte*>(state_->v->data); }
const float* HostAttention::q() const { return static_cast<const float*>(state_->q->data); }
const uint16_t* HostAttention::mask() const { return static_cast<const uint16_t*>(state_->mask->data); }
const float* HostAttention::out() const { return static_cast<const float*>(state_->out->data); }
int64_t HostAttention::row_bytes() const {
    return static_cast<int64_t>(ggml_row_size(state_->k->type, state_->k->ne[0]));
}
