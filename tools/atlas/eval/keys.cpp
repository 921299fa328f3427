#include "eval/keys.h"

namespace atlas::eval {

nlohmann::json keys_of(const std::string& statistics) {
    const nlohmann::json all = nlohmann::json::parse(statistics, nullptr, false);
    if (!all.is_object() || !all.contains("layers") || !all["layers"].is_array()) return nullptr;
    nlohmann::json layers = nlohmann::json::array();
    double visible = 0;
    double read = 0;
    int64_t calls = 0;
    int64_t exact_calls = 0;
    int64_t index_bytes = 0;
    for (const nlohmann::json& layer : all["layers"]) {
        if (!layer.is_object()) return nullptr;
        layers.push_back({{"layer", layer.value("layer", -1)},
                          {"calls", layer.value("calls", int64_t{0})},
                          {"exact_calls", layer.value("exact_calls", int64_t{0})},
                          {"visible", layer.value("visible_keys", 0.0)},
                          {"read", layer.value("exact_keys", 0.0)},
                          {"index_bytes", layer.value("index_bytes", int64_t{0})}});
        const nlohmann::json& one = layers.back();
        visible += one["visible"].get<double>();
        read += one["read"].get<double>();
        calls += one["calls"].get<int64_t>();
        exact_calls += one["exact_calls"].get<int64_t>();
        index_bytes += one["index_bytes"].get<int64_t>();
    }
    if (visible <= 0) return nullptr;
    return {{"layers", std::move(layers)},
            {"share", read / visible},
            {"calls", calls},
            {"exact_calls", exact_calls},
            {"index_bytes", index_bytes}};
}

}  // namespace atlas::eval
