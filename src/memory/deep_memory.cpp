#include "memory/deep_memory.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <string>

#include "kernels/elementwise.h"
#include "kernels/layers.h"
#include "kernels/matmul.h"

namespace atlas::memory {
namespace {

/** Where each parameter lies; absent ones are null. */
struct Views {
    float *w1 = nullptr, *b1 = nullptr, *w2 = nullptr, *b2 = nullptr, *w3 = nullptr;
};

Views views_of(const MemoryShape& shape, float* parameters) {
    Views v;
    const size_t width = shape.kind == MemoryKind::kLinear ? shape.d_in : shape.hidden;
    const auto take = [&](size_t n) {
        float* part = parameters;
        parameters += n;
        return part;
    };
    v.w1 = take(shape.d_out * width);
    if (shape.bias) v.b1 = take(shape.d_out);
    if (shape.kind == MemoryKind::kLinear) return v;
    v.w2 = take(shape.hidden * shape.d_in);
    if (shape.bias) v.b2 = take(shape.hidden);
    if (shape.kind == MemoryKind::kGated) v.w3 = take(shape.hidden * shape.d_in);
    return v;
}

Views views_of(const MemoryShape& shape, const float* parameters) {
    return views_of(shape, const_cast<float*>(parameters));
}

float* room(std::vector<float>* buffer, size_t n) {
    if (buffer->size() < n) buffer->resize(n);
    return buffer->data();
}

kernels::MatrixView transposed(const float* data, size_t row_stride) {
    return kernels::MatrixView{data, row_stride}.transposed();
}

/** c [m][n] = A·B + beta·c, A [m][k]. */
void product(size_t m, size_t n, size_t k, kernels::MatrixView a, kernels::MatrixView b, float* c, float beta = 0.0f) {
    kernels::gemm({.m = m, .n = n, .k = k, .a = a, .b = b, .c = c, .c_stride = n, .beta = beta});
}

void add_bias(const float* bias, size_t n, size_t d, float* rows) {
    if (bias == nullptr) return;
    for (size_t i = 0; i < n; ++i) kernels::scaled_add(1.0f, bias, 1.0f, d, rows + i * d);
}

/** Leaves z, activation, slope (if wanted), gate and the input of W1 in the workspace; y must hold n·d_out. */
void run_forward(const MemoryShape& shape, const Views& p, const float* x, size_t n, bool with_slope, float* y,
                 MemoryWorkspace* w) {
    const float* last = x;
    size_t width = shape.d_in;
    if (shape.kind != MemoryKind::kLinear) {
        width = shape.hidden;
        float* z = room(&w->z, n * width);
        product(n, width, shape.d_in, {x, shape.d_in}, transposed(p.w2, shape.d_in), z);
        add_bias(p.b2, n, width, z);
        kernels::gelu(z, n * width, room(&w->activation, n * width), with_slope ? room(&w->slope, n * width) : nullptr);
        last = w->activation.data();
        if (shape.kind == MemoryKind::kGated) {
            float* gate = room(&w->gate, n * width);
            product(n, width, shape.d_in, {x, shape.d_in}, transposed(p.w3, shape.d_in), gate);
            float* hidden = room(&w->hidden, n * width);
            std::copy_n(gate, n * width, hidden);
            kernels::product(w->activation.data(), hidden, n * width, hidden);
            last = hidden;
        }
    }
    product(n, shape.d_out, width, {last, width}, transposed(p.w1, width), y);
    add_bias(p.b1, n, shape.d_out, y);
    if (shape.residual != 0.0f) kernels::scaled_add(shape.residual, x, 1.0f, n * shape.d_out, y);
}

/** Gradients of one layer y = W x + b summed over rows: W = Σ e_i x_iᵀ, b = Σ e_i. */
void layer_gradient(const float* e, size_t d_out, const float* x, size_t d_in, size_t n, float* w, float* b) {
    product(d_out, d_in, n, transposed(e, d_out), {x, d_in}, w);
    if (b == nullptr) return;
    std::fill_n(b, d_out, 0.0f);
    for (size_t i = 0; i < n; ++i) kernels::scaled_add(1.0f, e + i * d_out, 1.0f, d_out, b);
}

/** scaled[i] = weights[i]·rows[i]. */
const float* scale_rows(const float* weights, const float* rows, size_t n, size_t d, std::vector<float>* scaled) {
    float* out = room(scaled, n * d);
    for (size_t i = 0; i < n; ++i) kernels::scaled_copy(weights[i], rows + i * d, d, out + i * d);
    return out;
}

}  // namespace

Status check_shape(const MemoryShape& shape) {
    const std::string sizes = "memory of " + std::to_string(shape.d_in) + " → " + std::to_string(shape.d_out) +
                              ", hidden " + std::to_string(shape.hidden);
    constexpr size_t kMost = size_t{1} << 16;
    if (shape.d_in == 0 || shape.d_out == 0 || shape.d_in > kMost || shape.d_out > kMost || shape.hidden > kMost) {
        return Status::invalid_argument(sizes + ": sizes are 1 to 65536");
    }
    if (shape.kind != MemoryKind::kLinear && shape.hidden == 0)
        return Status::invalid_argument(sizes + ": no hidden width");
    if (shape.residual != 0.0f && shape.d_in != shape.d_out)
        return Status::invalid_argument(sizes + ": a residual needs equal sizes");
    return Status::ok();
}

std::vector<ParameterTensor> parameter_tensors(const MemoryShape& shape) {
    std::vector<ParameterTensor> tensors;
    size_t offset = 0;
    const auto add = [&](const char* name, size_t rows, size_t cols) {
        tensors.push_back({name, rows, cols, offset});
        offset += rows * cols;
    };
    add("weight1", shape.d_out, shape.kind == MemoryKind::kLinear ? shape.d_in : shape.hidden);
    if (shape.bias) add("bias1", 1, shape.d_out);
    if (shape.kind == MemoryKind::kLinear) return tensors;
    add("weight2", shape.hidden, shape.d_in);
    if (shape.bias) add("bias2", 1, shape.hidden);
    if (shape.kind == MemoryKind::kGated) add("weight3", shape.hidden, shape.d_in);
    return tensors;
}

size_t parameter_count(const MemoryShape& shape) {
    const auto tensors = parameter_tensors(shape);
    return tensors.back().offset + tensors.back().rows * tensors.back().cols;
}

void initialize_parameters(const MemoryShape& shape, uint64_t seed, float* parameters) {
    std::fill_n(parameters, parameter_count(shape), 0.0f);
    if (shape.kind == MemoryKind::kLinear) return;
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal(0.0f, 1.0f / std::sqrt(static_cast<float>(shape.d_in)));
    const Views p = views_of(shape, parameters);
    for (size_t i = 0; i < shape.hidden * shape.d_in; ++i) p.w2[i] = normal(random);
    for (size_t i = 0; p.w3 && i < shape.hidden * shape.d_in; ++i) p.w3[i] = normal(random);
}

void memory_forward(const MemoryShape& shape, const float* parameters, const float* x, size_t n, float* y,
                    MemoryWorkspace* work) {
    run_forward(shape, views_of(shape, parameters), x, n, false, y, work);
}

double memory_gradient(const MemoryShape& shape, const float* parameters, const float* x, const float* v, size_t n,
                       std::span<const float* const> weights, std::span<float* const> gradients, float* x_gradient,
                       MemoryWorkspace* work) {
    const Views p = views_of(shape, parameters);
    const size_t d_out = shape.d_out;
    const size_t width = shape.kind == MemoryKind::kLinear ? shape.d_in : shape.hidden;
    float* error = room(&work->error, n * d_out);
    run_forward(shape, p, x, n, true, error, work);
    kernels::scaled_add(-1.0f, v, 1.0f, n * d_out, error);
    double loss = 0.0;
    for (size_t i = 0; i < n; ++i)
        loss += static_cast<double>(weights[0][i]) * kernels::square_sum(error + i * d_out, d_out);
    kernels::scaled_copy(2.0f, error, n * d_out, error);

    const float* last = x;
    if (shape.kind != MemoryKind::kLinear) {
        // ∂/∂z = (e W1) ⊙ gelu′(z) [⊙ W3x], ∂/∂(W3x) = (e W1) ⊙ gelu(z)
        float* d_z = room(&work->d_z, n * width);
        product(n, width, d_out, {error, d_out}, {p.w1, width}, d_z);
        last = work->activation.data();
        if (shape.kind == MemoryKind::kGated) {
            float* d_gate = room(&work->d_gate, n * width);
            std::copy_n(d_z, n * width, d_gate);
            kernels::product(work->activation.data(), d_gate, n * width, d_gate);
            kernels::product(work->gate.data(), d_z, n * width, d_z);
            last = work->hidden.data();
        }
        kernels::product(work->slope.data(), d_z, n * width, d_z);
    }
    for (size_t k = 0; k < gradients.size(); ++k) {
        const Views g = views_of(shape, gradients[k]);
        layer_gradient(scale_rows(weights[k], error, n, d_out, &work->scaled), d_out, last, width, n, g.w1, g.b1);
        if (g.w2)
            layer_gradient(scale_rows(weights[k], work->d_z.data(), n, width, &work->scaled), width, x, shape.d_in, n,
                           g.w2, g.b2);
        if (g.w3)
            layer_gradient(scale_rows(weights[k], work->d_gate.data(), n, width, &work->scaled), width, x, shape.d_in,
                           n, g.w3, nullptr);
    }
    if (x_gradient) {
        const size_t d = shape.d_in;
        if (p.w2) {
            product(n, d, width, {work->d_z.data(), width}, {p.w2, d}, x_gradient);
            if (p.w3) product(n, d, width, {work->d_gate.data(), width}, {p.w3, d}, x_gradient, 1.0f);
        } else {
            product(n, d, d_out, {error, d_out}, {p.w1, d}, x_gradient);
        }
        if (shape.residual != 0.0f) kernels::scaled_add(shape.residual, error, 1.0f, n * d, x_gradient);
        for (size_t i = 0; i < n; ++i) kernels::scaled_copy(weights[0][i], x_gradient + i * d, d, x_gradient + i * d);
    }
    return loss;
}

}  // namespace atlas::memory
