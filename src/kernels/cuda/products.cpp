#include "kernels/cuda/products.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/uploads.h"

namespace atlas::kernels::cuda {
namespace {

/** Columns that one pass over the weights is multiplied with, and rows of a warp in that kernel. */
struct Choice {
    int columns, rows;
    Kernel kernel;
};
constexpr Choice kChoices[] = {{1, 4, Kernel::multiply_1}, {4, 2, Kernel::multiply_4}};

int64_t parts_of(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

}  // namespace

bool product_type_of(WeightType type, ProductType* product_type) {
    switch (type) {
        case WeightType::kQ8_0:
            *product_type = ProductType::kQ8_0;
            return true;
        case WeightType::kQ4_0:
            *product_type = ProductType::kQ4_0;
            return true;
        case WeightType::kQ5_1:
            *product_type = ProductType::kQ5_1;
            return true;
        case WeightType::kIQ4_NL:
            *product_type = ProductType::kIQ4_NL;
            return true;
        case WeightType::kQ4_K:
            *product_type = ProductType::kQ4_K;
            return true;
        case WeightType::kQ5_K:
            *product_type = ProductType::kQ5_K;
            return true;
        case WeightType::kQ6_K:
            *product_type = ProductType::kQ6_K;
            return true;
        default:
            return false;
    }
}

Status multiply(Device& device, const ProductArguments& a) {
    const Choice& choice = a.columns == 1 ? kChoices[0] : kChoices[1];
    return device.launch(choice.kernel, static_cast<uint32_t>(parts_of(a.rows, int64_t{choice.rows} * kProductWarps)),
                         static_cast<uint32_t>(parts_of(a.columns, choice.columns)), &a);
}

Status quantise(Device& device, const QuantiseArguments& a) {
    return device.launch(Kernel::quantise_columns, static_cast<uint32_t>(parts_of(a.k, 256)),
                         static_cast<uint32_t>(a.columns), &a);
}

Status multiply_weights(Device& device, const WeightProduct& product, int64_t begin, int64_t end) {
    const WeightMatrix& w = product.weights;
    ProductArguments a{};
    if (!product_type_of(w.type, &a.type)) {
        return Status::unsupported(std::string("products on CUDA: weights in ") + weight_type_info(w.type).name +
                                   ": allowed are q8_0, q4_0, q5_1, iq4_nl, q4_K, q5_K and q6_K");
    }
    if (begin >= end || product.n == 0) return Status::ok();
    const auto rows = static_cast<size_t>(end - begin);
    const auto n = static_cast<size_t>(product.n);
    const auto k = static_cast<size_t>(w.cols);
    const size_t row_bytes = weight_row_bytes(w.type, w.cols);
    const size_t stride = (row_bytes + 15) / 16 * 16;
    std::vector<std::byte> weights(rows * stride);
    for (size_t r = 0; r < rows; ++r) {
        std::memcpy(weights.data() + r * stride, w.data + (static_cast<size_t>(begin) + r) * w.row_stride, row_bytes);
    }
    // Of the CPU's columns what the kernels read.
    const ActivationType type = weight_type_info(w.type).activations;
    const ActivationLayout at(type, w.cols);
    std::vector<int8_t> codes(n * k);
    std::vector<ActivationPart> parts(n * k / 32);
    for (size_t j = 0; j < n; ++j) {
        const size_t from = product.columns ? static_cast<size_t>(product.columns[j].in) : j;
        const std::byte* column = product.activations + from * at.bytes;
        std::memcpy(codes.data() + j * k, column + at.codes, k);
        for (size_t part = 0; part < k / 32; ++part) {
            ActivationPart& to = parts[j * k / 32 + part];
            const size_t block = type == ActivationType::kQ8K ? part / 8 : part;
            std::memcpy(&to.scale, column + at.scales + block * sizeof(float), sizeof(float));
            to.offset = 0.0f;
            if (type == ActivationType::kQ8) {
                std::memcpy(&to.offset, column + at.offsets + block * sizeof(float), sizeof(float));
            }
            int sums[2] = {};
            for (size_t i = 0; i < 32; ++i) sums[i / 16] += codes[j * k + part * 32 + i];
            to.sums = (static_cast<uint32_t>(sums[0]) & 0xFFFFu) | static_cast<uint32_t>(sums[1]) << 16;
        }
    }
    std::vector<float> out(n * rows);
    Uploads uploads(device);
    a.out = reinterpret_cast<float*>(uploads.add(nullptr, out.size() * sizeof(float)));
    a.weights = reinterpret_cast<const unsigned char*>(uploads.add(weights.data(), weights.size()));
    a.codes = uploads.add(codes);
    a.parts = uploads.add(parts);
    a.row_stride = static_cast<int64_t>(stride);
    a.out_stride = static_cast<int64_t>(rows);
    a.rows = static_cast<int32_t>(rows);
    a.cols = static_cast<int32_t>(k);
    a.columns = static_cast<int32_t>(n);
    Status status = uploads.status();
    if (status.is_ok()) status = multiply(device, a);
    if (status.is_ok()) status = device.download(out.data(), uploads.at(0), out.size() * sizeof(float));
    if (Status waited = uploads.wait(); status.is_ok()) status = waited;
    if (!status.is_ok()) return status;
    for (size_t j = 0; j < n; ++j) {
        const size_t to = product.columns ? static_cast<size_t>(product.columns[j].out) : j;
        std::copy_n(out.data() + j * rows, rows, product.out + to * product.out_stride + static_cast<size_t>(begin));
    }
    return status;
}

Status quantise_activations(Device& device, const ActivationArgs& args, int64_t n, int8_t* codes,
                            ActivationPart* parts) {
    if (args.type != ActivationType::kQ8 && args.type != ActivationType::kQ8K) {
        return Status::unsupported("activations on CUDA: allowed are blocks of eight bits");
    }
    const auto k = static_cast<size_t>(args.k);
    const auto columns = static_cast<size_t>(n);
    Uploads uploads(device);
    QuantiseArguments a{};
    a.codes = reinterpret_cast<int8_t*>(uploads.add(nullptr, columns * k));
    a.parts = reinterpret_cast<ActivationPart*>(uploads.add(nullptr, columns * k / 32 * sizeof(ActivationPart)));
    a.x = reinterpret_cast<const float*>(uploads.add(args.x, (columns - 1) * args.x_stride + k * sizeof(float)));
    a.x_stride = static_cast<int64_t>(args.x_stride / sizeof(float));
    a.k = static_cast<int32_t>(k);
    a.columns = static_cast<int32_t>(n);
    a.wide = args.type == ActivationType::kQ8K ? 1 : 0;
    Status status = uploads.status();
    if (status.is_ok()) status = quantise(device, a);
    if (status.is_ok()) status = device.download(codes, uploads.at(0), columns * k);
    if (status.is_ok()) status = device.download(parts, uploads.at(1), columns * k / 32 * sizeof(ActivationPart));
    if (Status waited = uploads.wait(); status.is_ok()) status = waited;
    return status;
}

}  // namespace atlas::kernels::cuda
