#pragma once

#include <ggml-backend.h>
#include <ggml.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace atlas::host::test {

/** Loads the host's own backends and the plug-in through ggml's loader, once per process; nullptr when the plug-in declined. */
ggml_backend_reg_t load_plugin();

struct Deleter {
    void operator()(ggml_backend_t backend) const { ggml_backend_free(backend); }
    void operator()(ggml_backend_buffer_t buffer) const { ggml_backend_buffer_free(buffer); }
    void operator()(ggml_context* context) const { ggml_free(context); }
};

/** Tensors of one backend: fill `context`, then allocate(); build further nodes in `context` after compute buffers are not needed. */
class Bench {
public:
    explicit Bench(ggml_backend_dev_t device);

    ggml_backend_t backend() const { return backend_.get(); }
    ggml_context* context() const { return context_.get(); }

    ggml_tensor* tensor(const char* name, ggml_type type, std::vector<int64_t> shape);
    /** Puts all tensors made so far into one buffer of the device. */
    ggml_backend_buffer_t allocate();
    /** Runs what `result` needs. Operations must have been made before allocate(). */
    ggml_status compute(ggml_tensor* result) { return compute(std::vector<ggml_tensor*>{result}); }
    /** The same of several, in this order. */
    ggml_status compute(const std::vector<ggml_tensor*>& results);

    static void set(ggml_tensor* tensor, const std::vector<float>& values);
    static std::vector<uint8_t> bytes(const ggml_tensor* tensor);
    static std::vector<float> floats(const ggml_tensor* tensor);

private:
    std::unique_ptr<ggml_backend, Deleter> backend_;
    std::unique_ptr<ggml_context, Deleter> context_;
    std::unique_ptr<ggml_backend_buffer, Deleter> buffer_;
};

ggml_backend_dev_t cpu_device();

/** Repeatable values in [-1, 1). */
std::vector<float> noise(size_t count, uint32_t seed);

/** Σ(a−b)² / Σa². */
double nmse(const std::vector<float>& expected, const std::vector<float>& actual);

}  // namespace atlas::host::test
