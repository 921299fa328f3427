#include "memory/reference/deep_memory.h"

#include <cmath>
#include <cstring>
#include <vector>

namespace atlas::memory::reference {
namespace {

size_t offset_of(const MemoryShape& shape, const char* name) {
    for (const ParameterTensor& tensor : parameter_tensors(shape)) {
        if (std::strcmp(tensor.name, name) == 0) return tensor.offset;
    }
    return 0;
}

/** Activations of one input: z = W2x + b2, g = W3x, h the input of W1. */
struct Pass {
    std::vector<double> z, g, h, y;
};

Pass run(const MemoryShape& shape, const double* p, const double* x) {
    Pass pass;
    if (shape.kind == MemoryKind::kLinear) {
        pass.h.assign(x, x + shape.d_in);
    } else {
        const double* w2 = p + offset_of(shape, "weight2");
        const double* b2 = p + offset_of(shape, "bias2");
        const double* w3 = p + offset_of(shape, "weight3");
        for (size_t k = 0; k < shape.hidden; ++k) {
            double z = shape.bias ? b2[k] : 0.0;
            double g = 1.0;
            for (size_t j = 0; j < shape.d_in; ++j) z += w2[k * shape.d_in + j] * x[j];
            if (shape.kind == MemoryKind::kGated) {
                g = 0.0;
                for (size_t j = 0; j < shape.d_in; ++j) g += w3[k * shape.d_in + j] * x[j];
            }
            pass.z.push_back(z);
            pass.g.push_back(g);
            pass.h.push_back(gelu(z) * g);
        }
    }
    const double* w1 = p + offset_of(shape, "weight1");
    const double* b1 = p + offset_of(shape, "bias1");
    for (size_t i = 0; i < shape.d_out; ++i) {
        double y = shape.bias ? b1[i] : 0.0;
        if (shape.residual != 0.0f) y += static_cast<double>(shape.residual) * x[i];
        for (size_t k = 0; k < pass.h.size(); ++k) y += w1[i * pass.h.size() + k] * pass.h[k];
        pass.y.push_back(y);
    }
    return pass;
}

constexpr double kScale = 1.5957691216057308;  // 2√(2/π)
constexpr double kCubic = 0.044715;

double sigmoid(double u) { return 1.0 / (1.0 + std::exp(-u)); }

}  // namespace

double gelu(double z) { return z * sigmoid(kScale * (z + kCubic * z * z * z)); }

double gelu_slope(double z) {
    const double s = sigmoid(kScale * (z + kCubic * z * z * z));
    return s + z * s * (1.0 - s) * kScale * (1.0 + 3.0 * kCubic * z * z);
}

void memory_forward(const MemoryShape& shape, const double* parameters, const double* x, double* y) {
    const Pass pass = run(shape, parameters, x);
    std::memcpy(y, pass.y.data(), shape.d_out * sizeof(double));
}

double add_memory_gradient(const MemoryShape& shape, const double* p, const double* x, const double* v, double weight,
                           double* gradient, double* x_gradient) {
    const Pass pass = run(shape, p, x);
    const size_t width = pass.h.size();
    const size_t w1 = offset_of(shape, "weight1");
    const size_t w2 = offset_of(shape, "weight2");
    const size_t w3 = offset_of(shape, "weight3");
    double loss = 0.0;
    std::vector<double> d_h(width, 0.0);
    for (size_t i = 0; i < shape.d_out; ++i) {
        const double difference = pass.y[i] - v[i];
        const double e = 2.0 * weight * difference;
        loss += weight * difference * difference;
        for (size_t k = 0; k < width; ++k) {
            gradient[w1 + i * width + k] += e * pass.h[k];
            d_h[k] += e * p[w1 + i * width + k];
        }
        if (shape.bias) gradient[offset_of(shape, "bias1") + i] += e;
        if (x_gradient && shape.residual != 0.0f) x_gradient[i] += static_cast<double>(shape.residual) * e;
    }
    if (shape.kind == MemoryKind::kLinear) {
        for (size_t j = 0; x_gradient && j < shape.d_in; ++j) x_gradient[j] += d_h[j];
        return loss;
    }
    for (size_t k = 0; k < shape.hidden; ++k) {
        const double d_z = d_h[k] * pass.g[k] * gelu_slope(pass.z[k]);
        const double d_g = d_h[k] * gelu(pass.z[k]);
        if (shape.bias) gradient[offset_of(shape, "bias2") + k] += d_z;
        for (size_t j = 0; j < shape.d_in; ++j) {
            gradient[w2 + k * shape.d_in + j] += d_z * x[j];
            if (x_gradient) x_gradient[j] += d_z * p[w2 + k * shape.d_in + j];
            if (shape.kind != MemoryKind::kGated) continue;
            gradient[w3 + k * shape.d_in + j] += d_g * x[j];
            if (x_gradient) x_gradient[j] += d_g * p[w3 + k * shape.d_in + j];
        }
    }
    return loss;
}

}  // namespace atlas::memory::reference
