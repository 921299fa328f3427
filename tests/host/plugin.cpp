#include "plugin.h"

#include <random>

namespace atlas::host::test {

ggml_backend_reg_t load_plugin() {
    static ggml_backend_reg_t registry = [] {
        ggml_backend_load_all();
        return ggml_backend_load(ATLAS_PLUGIN);
    }();
    return registry;
}

ggml_backend_dev_t cpu_device() { return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU); }

Bench::Bench(ggml_backend_dev_t device)
    : backend_(ggml_backend_dev_init(device, nullptr)),
      context_(ggml_init({256 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true})) {}

ggml_tensor* Bench::tensor(const char* name, ggml_type type, std::vector<int64_t> shape) {
    shape.resize(4, 1);
    ggml_tensor* created = ggml_new_tensor(context(), type, 4, shape.data());
    ggml_set_name(created, name);
    return created;
}

ggml_backend_buffer_t Bench::allocate() {
    buffer_.reset(ggml_backend_alloc_ctx_tensors(context(), backend()));
    return buffer_.get();
}

ggml_status Bench::compute(const std::vector<ggml_tensor*>& results) {
    const std::unique_ptr<ggml_context, Deleter> memory(
        ggml_init({ggml_graph_overhead() + ggml_tensor_overhead(), nullptr, true}));
    ggml_cgraph* graph = ggml_new_graph(memory.get());
    for (ggml_tensor* result : results) ggml_build_forward_expand(graph, result);
    return ggml_backend_graph_compute(backend(), graph);
}

void Bench::set(ggml_tensor* tensor, const std::vector<float>& values) {
    std::vector<uint8_t> encoded(ggml_nbytes(tensor));
    if (tensor->type == GGML_TYPE_F32) {
        ggml_backend_tensor_set(tensor, values.data(), 0, ggml_nbytes(tensor));
        return;
    }
    ggml_quantize_chunk(tensor->type, values.data(), encoded.data(), 0, ggml_nrows(tensor), tensor->ne[0], nullptr);
    ggml_backend_tensor_set(tensor, encoded.data(), 0, encoded.size());
}

std::vector<uint8_t> Bench::bytes(const ggml_tensor* tensor) {
    std::vector<uint8_t> result(ggml_nbytes(tensor));
    ggml_backend_tensor_get(tensor, result.data(), 0, result.size());
    return result;
}

std::vector<float> Bench::floats(const ggml_tensor* tensor) {
    std::vector<float> result(ggml_nbytes(tensor) / sizeof(float));
    ggml_backend_tensor_get(tensor, result.data(), 0, ggml_nbytes(tensor));
    return result;
}

std::vector<float> noise(size_t count, uint32_t seed) {
    std::mt19937 generator(seed);
    std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
    std::vector<float> values(count);
    for (float& value : values) value = uniform(generator);
    return values;
}

double nmse(const std::vector<float>& expected, const std::vector<float>& actual) {
    double error = 0;
    double norm = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
        error += (expected[i] - actual[i]) * static_cast<double>(expected[i] - actual[i]);
        norm += expected[i] * static_cast<double>(expected[i]);
    }
    return error / norm;
}

}  // namespace atlas::host::test
