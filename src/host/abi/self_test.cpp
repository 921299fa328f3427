#include "host/abi/self_test.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "host/device.h"

namespace atlas::host::abi {
namespace {

constexpr size_t kTensors = 16;
constexpr int64_t kHead = 32, kCells = 64;

struct Deleter {
    void operator()(ggml_context* context) const { ggml_free(context); }
    void operator()(ggml_backend_t backend) const { ggml_backend_free(backend); }
    void operator()(ggml_backend_buffer_t buffer) const { ggml_backend_buffer_free(buffer); }
};

/** Compares what is with what has to be; the first difference is the result. */
class Comparison {
public:
    template <typename A, typename B>
    bool same(std::string_view what, const A& is, const B& due) {
        if (is == static_cast<A>(due)) return true;
        if (status_.is_ok())
            status_ =
                Status::unsupported(std::string(what) + " is " + text(is) + " instead of " + text(static_cast<A>(due)));
        return false;
    }
    const Status& status() const { return status_; }

private:
    template <typename A>
    static std::string text(const A& value) {
        if constexpr (std::is_arithmetic_v<A>) {
            return std::to_string(value);
        } else if constexpr (std::is_same_v<A, std::string_view>) {
            return "'" + std::string(value.substr(0, 64)) + "'";
        } else {
            return value ? "another object" : "null";
        }
    }
    Status status_;
};

/** Memory and context for tensors without data. */
struct Tensors {
    std::vector<std::byte> memory;
    std::unique_ptr<ggml_context, Deleter> context;

    Tensors()
        : memory(kTensors * ggml_tensor_overhead() + ggml_graph_overhead_custom(kTensors, false)),
          context(ggml_init({memory.size(), memory.data(), true})) {}
};

/** Sizes and fields of a tensor, as far as Atlas reads them. */
Status check_tensor() {
    Comparison compare;
    Tensors tensors;
    ggml_context* context = tensors.context.get();
    ggml_tensor* q = ggml_new_tensor_4d(context, GGML_TYPE_F32, 32, 5, 6, 1);
    ggml_tensor* k = ggml_new_tensor_4d(context, GGML_TYPE_F16, 32, 64, 3, 1);
    const auto address = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); };
    // An object's header, then the tensor: with both, the size of a tensor is ours.
    compare.same("size of a tensor", ggml_tensor_overhead() - (address(q) - address(tensors.memory.data())),
                 sizeof(ggml_tensor));
    compare.same("distance of two tensors", address(k) - address(q), ggml_tensor_overhead());
    if (!compare.status().is_ok()) return compare.status();

    compare.same("ggml_tensor.type", static_cast<int>(k->type), static_cast<int>(GGML_TYPE_F16));
    compare.same("ggml_type_size of f16", ggml_type_size(k->type), size_t{2});
    compare.same("ggml_tensor.ne[2]", k->ne[2], 3);
    compare.same("ggml_tensor.nb[2]", k->nb[2], size_t{32 * 64 * 2});
    compare.same("ggml_tensor.data", static_cast<const void*>(k->data), static_cast<const void*>(nullptr));
    compare.same("ggml_tensor.extra", static_cast<const void*>(k->extra), static_cast<const void*>(nullptr));
    compare.same("ggml_tensor.buffer", k->buffer, ggml_backend_buffer_t{nullptr});
    ggml_set_name(k, "atlas");
    compare.same("ggml_tensor.name", std::string_view(k->name), std::string_view("atlas"));
    ggml_set_output(k);
    compare.same("ggml_tensor.flags", k->flags, static_cast<int32_t>(GGML_TENSOR_FLAG_OUTPUT));
    const ggml_tensor* view = ggml_view_2d(context, k, 32, 7, k->nb[1], 3 * k->nb[1]);
    compare.same("ggml_tensor.view_src", static_cast<const ggml_tensor*>(view->view_src),
                 static_cast<const ggml_tensor*>(k));
    compare.same("ggml_tensor.view_offs", view->view_offs, 3 * k->nb[1]);
    ggml_tensor* mask = ggml_new_tensor_2d(context, GGML_TYPE_F16, 64, 5);
    ggml_tensor* sinks = ggml_new_tensor_1d(context, GGML_TYPE_F32, 6);
    ggml_tensor* node = ggml_flash_attn_ext(context, q, k, k, mask, 0.5f, 0.0f, 0.25f);
    ggml_flash_attn_ext_add_sinks(node, sinks);
    const ggml_tensor* operands[] = {q, k, k, mask, sinks, nullptr};
    for (size_t i = 0; i < std::size(operands); ++i)
        compare.same("ggml_tensor.src[" + std::to_string(i) + "]", static_cast<const ggml_tensor*>(node->src[i]),
                     operands[i]);
    compare.same("ggml_tensor.op", std::string_view(ggml_op_name(node->op)), std::string_view("FLASH_ATTN_EXT"));
    const float params[] = {0.5f, 0.0f, 0.25f};
    compare.same("ggml_tensor.op_params", std::memcmp(node->op_params, params, sizeof params), 0);
    ggml_cgraph* graph = ggml_new_graph_custom(context, kTensors, false);
    ggml_build_forward_expand(graph, node);
    compare.same("ggml_graph_node",
                 static_cast<const ggml_tensor*>(ggml_graph_node(graph, ggml_graph_n_nodes(graph) - 1)),
                 static_cast<const ggml_tensor*>(node));
    return compare.status();
}

/** What lies behind the tables of the device and its buffer type, then what their functions say. */
Status check_device(ggml_backend_dev_t device, ggml_backend_reg_t registry) {
    Comparison compare;
    if (!compare.same("ggml_backend_dev_backend_reg", ggml_backend_dev_backend_reg(device), registry))
        return compare.status();
    compare.same("ggml_backend_reg_name", std::string_view(ggml_backend_reg_name(registry)), std::string_view("ATLAS"));
    compare.same("ggml_backend_reg_dev_count", ggml_backend_reg_dev_count(registry), size_t{1});
    compare.same("ggml_backend_reg_dev_get", ggml_backend_reg_dev_get(registry, 0), device);
    const ggml_backend_buffer_type_t type = ggml_backend_dev_buffer_type(device);
    const bool own = type != ggml_backend_cpu_buffer_type();
    if (own && !compare.same("ggml_backend_buft_get_device", ggml_backend_buft_get_device(type), device))
        return compare.status();
    compare.same("ggml_backend_buft_is_host", ggml_backend_buft_is_host(type), !own);
    compare.same("ggml_backend_buft_get_alignment % 16", ggml_backend_buft_get_alignment(type) % 16, size_t{0});
    compare.same("ggml_backend_dev_supports_buft", ggml_backend_dev_supports_buft(device, type), true);
    return compare.status();
}

/** Rows written and read by attention, in a buffer of the device and by a backend of it. */
Status check_graph(ggml_backend_dev_t device) {
    Comparison compare;
    const ggml_backend_buffer_type_t type = ggml_backend_dev_buffer_type(device);
    const std::unique_ptr<ggml_backend, Deleter> backend(ggml_backend_dev_init(device, kSelfTest));
    if (!backend) return Status::unsupported("ggml_backend_dev_init made no backend");
    if (!compare.same("ggml_backend_get_device", ggml_backend_get_device(backend.get()), device))
        return compare.status();
    backend_set_n_threads(backend.get(), 1);

    Tensors tensors;
    ggml_context* context = tensors.context.get();
    ggml_tensor* k = ggml_new_tensor_2d(context, GGML_TYPE_F16, kHead, kCells);
    ggml_tensor* rows = ggml_new_tensor_2d(context, GGML_TYPE_F32, kHead, 2);
    ggml_tensor* where = ggml_new_tensor_1d(context, GGML_TYPE_I64, 2);
    ggml_tensor* q = ggml_new_tensor_1d(context, GGML_TYPE_F32, kHead);
    ggml_tensor* mask = ggml_new_tensor_2d(context, GGML_TYPE_F16, kCells, 1);
    ggml_tensor* written = ggml_set_rows(context, k, rows, where);
    ggml_tensor* out = ggml_flash_attn_ext(context, q, k, k, mask, 1.0f, 0.0f, 0.0f);

    const size_t alignment = ggml_backend_buft_get_alignment(type);
    const std::unique_ptr<ggml_backend_buffer, Deleter> buffer(ggml_backend_buft_alloc_buffer(type, kTensors * 8192));
    if (!buffer) return Status::unsupported("ggml_backend_buft_alloc_buffer gave no buffer");
    if (!compare.same("ggml_backend_buffer_get_type", ggml_backend_buffer_get_type(buffer.get()), type) ||
        !compare.same("ggml_backend_buffer_get_size", ggml_backend_buffer_get_size(buffer.get()), kTensors * 8192))
        return compare.status();
    auto* at = static_cast<std::byte*>(ggml_backend_buffer_get_base(buffer.get()));
    for (ggml_tensor* tensor : {k, rows, where, q, mask, out}) {
        compare.same("ggml_backend_tensor_alloc", static_cast<int>(ggml_backend_tensor_alloc(buffer.get(), tensor, at)),
                     static_cast<int>(GGML_STATUS_SUCCESS));
        at += (ggml_nbytes(tensor) + alignment - 1) / alignment * alignment;
    }
    compare.same("ggml_backend_view_init", static_cast<int>(ggml_backend_view_init(written)),
                 static_cast<int>(GGML_STATUS_SUCCESS));
    if (!compare.status().is_ok()) return compare.status();

    // Two keys are visible and alike to the query, so that the result is the mean of the rows, which are their values too.
    ggml_backend_buffer_clear(buffer.get(), 0);
    const std::vector<float> values = [] {
        std::vector<float> made(2 * kHead, 1.0f);
        for (size_t i = kHead; i < made.size(); ++i) made[i] = 3.0f;
        return made;
    }();
    const int64_t cells[] = {5, 41};
    std::vector<ggml_fp16_t> visible(kCells, ggml_fp32_to_fp16(-INFINITY));
    for (const int64_t cell : cells) visible[static_cast<size_t>(cell)] = 0;
    ggml_backend_tensor_set(rows, values.data(), 0, ggml_nbytes(rows));
    ggml_backend_tensor_set(where, cells, 0, sizeof cells);
    ggml_backend_tensor_set(mask, visible.data(), 0, ggml_nbytes(mask));
    ggml_backend_tensor_memset(out, 0xff, 0, ggml_nbytes(out));
    ggml_cgraph* graph = ggml_new_graph_custom(context, kTensors, false);
    ggml_build_forward_expand(graph, written);
    ggml_build_forward_expand(graph, out);
    compare.same("ggml_backend_supports_op", ggml_backend_supports_op(backend.get(), out), true);
    const ggml_status status = ggml_backend_graph_compute(backend.get(), graph);
    // What a budget of the user's forbids says nothing about the host.
    if (status == GGML_STATUS_ALLOC_FAILED) return compare.status();
    compare.same("ggml_backend_graph_compute", static_cast<int>(status), static_cast<int>(GGML_STATUS_SUCCESS));
    std::vector<float> result(kHead);
    ggml_backend_tensor_get(out, result.data(), 0, ggml_nbytes(out));
    for (const float value : result) {
        if (!compare.same("attention over two rows", std::fabs(value - 2.0f) < 1e-3f, true)) break;
    }
    return compare.status();
}

}  // namespace

bool host_marks_nodes() {
    static const bool marks = [] {
        Tensors tensors;
        ggml_context* context = tensors.context.get();
        if (!context) return true;
        ggml_tensor* node = ggml_dup(context, ggml_new_tensor_1d(context, GGML_TYPE_F32, 1));
        ggml_build_forward_expand(ggml_new_graph_custom(context, kTensors, false), node);
        return (node->flags & GGML_TENSOR_FLAG_COMPUTE) != 0;
    }();
    return marks;
}

Status self_test(ggml_backend_dev_t device, ggml_backend_reg_t registry) {
    if (Status status = check_tensor(); !status.is_ok()) return status;
    if (Status status = check_device(device, registry); !status.is_ok()) return status;
    return check_graph(device);
}

}  // namespace atlas::host::abi
