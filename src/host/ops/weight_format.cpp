#include "host/ops/weight_format.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string_view>

#include "host/ops/mat_mul.h"
#include "weights/encode.h"

namespace atlas::host {
namespace {

/** Names that llama.cpp gives tensors of its models, or parts of them. */
constexpr std::string_view kHeads[] = {"output", "token_embd"};
constexpr std::string_view kKept[] = {"per_layer_token_embd", "position_embd", "cls"};
constexpr std::string_view kRouter = "_gate_inp";

ggml_type type_of(kernels::WeightType type) {
    static const auto types = [] {
        std::array<ggml_type, kernels::kWeightTypeCount> found{};
        for (int i = 0; i < kernels::kWeightTypeCount; ++i) {
            const std::string_view name = kernels::weight_type_info(static_cast<kernels::WeightType>(i)).name;
            for (int t = 0; t < GGML_TYPE_COUNT; ++t) {
                const char* known = ggml_type_name(static_cast<ggml_type>(t));
                if (known && name == known) found[static_cast<size_t>(i)] = static_cast<ggml_type>(t);
            }
        }
        return found;
    }();
    return types[static_cast<size_t>(type)];
}

bool is_one_of(std::string_view name, std::span<const std::string_view> names) {
    return std::any_of(names.begin(), names.end(), [&](std::string_view one) {
        return name.starts_with(one) && (name.size() == one.size() || name[one.size()] == '.');
    });
}

}  // namespace

std::optional<weights::FormatStore::Part> part_to_round(const ggml_tensor* weights) {
    if (weights->type != GGML_TYPE_F32 && weights->type != GGML_TYPE_F16 && weights->type != GGML_TYPE_BF16)
        return std::nullopt;
    // Experts' matrices follow each other; a part of a matrix is not rounded by itself.
    if (weights->op != GGML_OP_NONE || weights->view_src || weights->ne[3] != 1) return std::nullopt;
    if (weights->ne[2] > 1 && weights->nb[2] != weights->nb[1] * static_cast<size_t>(weights->ne[1]))
        return std::nullopt;
    const std::string_view name(weights->name);
    if (is_one_of(name, kHeads)) return weights::FormatStore::Part::kHead;
    if (is_one_of(name, kKept) || name.find(kRouter) != std::string_view::npos) return std::nullopt;
    return weights::FormatStore::Part::kLayers;
}

kernels::WeightMatrix matrix_of(const ggml_tensor* weights, const weights::FormatStore* formats) {
    const auto* const data = static_cast<const std::byte*>(weights->data);
    if (formats) {
        if (const kernels::WeightMatrix* rounded = formats->find(data)) return *rounded;
    }
    return {*weight_type_of(weights), data, weights->ne[1] * weights->ne[2], weights->ne[0], weights->nb[1]};
}

void decode_weights(kernels::WeightType type, const std::byte* row, int64_t cols, float* out) {
    if (type == kernels::WeightType::kF32) {
        std::memcpy(out, row, static_cast<size_t>(cols) * sizeof(float));
    } else if (type == kernels::WeightType::kE4M3) {
        weights::decode_e4m3(row, cols, out);
    } else {
        ggml_get_type_traits(type_of(type))->to_float(row, out, cols);
    }
}

}  // namespace atlas::host
