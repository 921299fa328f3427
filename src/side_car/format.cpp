#include "side_car/format.h"

#include <utility>

#include "memory/feature_map.h"

namespace atlas::side_car {

LayerFormat format_of(const MemoryOptions& options, uint64_t seed, const SideCarLayer& layer) {
    LayerFormat format;
    format.config = attention::corrector_config(options, layer.d_k, layer.d_v, seed);
    const memory::MemoryConfig& m = format.config.memory;
    format.features = memory::feature_count(m.features);
    format.has_coefficients =
        options.features == MemoryFeatures::kPolynomial || options.features == MemoryFeatures::kExponential;
    format.constant = format.config.least_squares && format.has_coefficients;
    if (!format.config.least_squares) {
        format.shape = memory::shape_of(m);
        format.parameters = memory::parameter_tensors(format.shape);
    }
    return format;
}

std::vector<Part> LayerFormat::parts(int layer) const {
    const std::string suffix = "." + std::to_string(layer);
    const auto d_out = static_cast<int64_t>(config.memory.d_out);
    const auto n = static_cast<int64_t>(features);
    std::vector<Part> all;
    const auto add = [&](const char* name, std::vector<int64_t> one, bool per_head = true) {
        all.push_back({name + suffix, std::move(one), per_head, {}});
    };
    for (const char* name : {"atlas.memory.use", "atlas.memory.gate", "atlas.memory.mass_bias", "atlas.memory.scale",
                             "atlas.memory.residual"})
        add(name, {});
    add("atlas.memory.evidence", {5});
    if (config.least_squares) {
        add("atlas.memory.weight1", {constant ? n - 1 : n, d_out});
        if (constant) add("atlas.memory.bias1", {d_out});
        add("atlas.memory.covariance", {n, n});
    } else {
        int64_t total = 0;
        for (const memory::ParameterTensor& tensor : parameters) {
            const auto rows = static_cast<int64_t>(tensor.rows);
            const auto cols = static_cast<int64_t>(tensor.cols);
            const std::string name = std::string("atlas.memory.") + tensor.name;
            add(name.c_str(), rows == 1 && name.find("bias") != std::string::npos ? std::vector<int64_t>{cols}
                                                                                  : std::vector<int64_t>{cols, rows});
            total += rows * cols;
        }
        add("atlas.muon.momentum", {total});
    }
    if (has_coefficients) add("atlas.feature.weights", {config.memory.features.degree + 1});
    if (config.memory.features.type == memory::FeatureType::kFourier ||
        config.memory.features.type == memory::FeatureType::kRbf) {
        add("atlas.feature.weights", {static_cast<int64_t>(config.memory.features.d), n}, false);
        if (config.memory.features.type == memory::FeatureType::kFourier) add("atlas.feature.phases", {n}, false);
    }
    return all;
}

Part* find_part(std::vector<Part>& parts, const char* name) {
    for (Part& part : parts) {
        if (part.name.substr(0, part.name.rfind('.')) == name) return &part;
    }
    return nullptr;
}

size_t LayerFormat::weights() const {
    return config.least_squares ? features * config.memory.d_out : memory::parameter_count(shape);
}

size_t LayerFormat::momentum() const { return config.least_squares ? features * features : weights(); }

}  // namespace atlas::side_car
