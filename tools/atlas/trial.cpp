#include "trial.h"

#include <ggml.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "settings.h"

namespace atlas::tool {
namespace {

using Json = nlohmann::ordered_json;

// More would take gigabytes and seconds.
constexpr int64_t kMostKeys = 262144;

struct Free {
    void operator()(ggml_backend_t backend) const { ggml_backend_free(backend); }
    void operator()(ggml_backend_buffer_t buffer) const { ggml_backend_buffer_free(buffer); }
    void operator()(ggml_context* context) const { ggml_free(context); }
};

/** A whole number that the library has taken, hence well-formed. */
int64_t number_of(const char* flag) {
    const Setting* setting = find_setting(flag);
    const char* given = setting ? std::getenv(setting->variable) : nullptr;
    return std::atoll(given && *given ? given : setting ? setting->initial : "0");
}

/** One query over that many keys; whether it could be computed. */
bool attend(ggml_backend_dev_t device, int64_t keys) {
    constexpr int64_t kHead = 64;
    const std::unique_ptr<ggml_backend, Free> backend(ggml_backend_dev_init(device, nullptr));
    const std::unique_ptr<ggml_context, Free> context(
        ggml_init({32 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true}));
    if (!backend || !context) return false;
    const auto cache = [&](const char* name) {
        ggml_tensor* tensor = ggml_new_tensor_2d(context.get(), GGML_TYPE_F16, kHead, keys);
        ggml_set_name(tensor, name);
        return tensor;
    };
    // Named as llama.cpp names its caches: that is how a cache is told.
    ggml_tensor* k = cache("cache_k_l0");
    ggml_tensor* v = cache("cache_v_l0");
    ggml_tensor* q = ggml_new_tensor_3d(context.get(), GGML_TYPE_F32, kHead, 1, 1);
    const auto head = [&](ggml_tensor* tensor) {
        return ggml_view_4d(context.get(), tensor, kHead, keys, 1, 1, tensor->nb[1], tensor->nb[1],
                            tensor->nb[1] * static_cast<size_t>(keys), 0);
    };
    ggml_tensor* out = ggml_flash_attn_ext(context.get(), q, head(k), head(v), nullptr,
                                           1.0f / std::sqrt(static_cast<float>(kHead)), 0.0f, 0.0f);
    ggml_cgraph* graph = ggml_new_graph(context.get());
    ggml_build_forward_expand(graph, out);
    const std::unique_ptr<ggml_backend_buffer, Free> buffer(
        ggml_backend_alloc_ctx_tensors(context.get(), backend.get()));
    if (!buffer) return false;
    std::vector<float> numbers(static_cast<size_t>(kHead * keys));
    uint32_t state = 1;
    for (float& number : numbers) {
        state = state * 1664525u + 1013904223u;
        number = static_cast<float>(state >> 8) / (1 << 23) - 1.0f;
    }
    std::vector<ggml_fp16_t> halves(numbers.size());
    ggml_fp32_to_fp16_row(numbers.data(), halves.data(), static_cast<int64_t>(numbers.size()));
    ggml_backend_tensor_set(k, halves.data(), 0, ggml_nbytes(k));
    ggml_backend_tensor_set(v, halves.data(), 0, ggml_nbytes(v));
    ggml_backend_tensor_set(q, numbers.data(), 0, ggml_nbytes(q));
    return ggml_backend_graph_compute(backend.get(), graph) == GGML_STATUS_SUCCESS;
}

}  // namespace

Json try_attention(ggml_backend_reg_t registry) {
    using Text = const char* (*)();
    const auto text = [&](const char* name) {
        const auto function = reinterpret_cast<Text>(ggml_backend_reg_get_proc_address(registry, name));
        return std::string(function ? function() : "");
    };
    Json result{{"asked", text("atlas_asked")}};
    if (result["asked"] == "") return result;
    const int64_t least = number_of("atlas-threshold") + number_of("atlas-sinks") + number_of("atlas-window") + 1024;
    const int64_t keys = std::min((least + 255) / 256 * 256, kMostKeys);
    result["keys"] = keys;
    result["takes_part"] = false;
    if (ggml_backend_reg_dev_count(registry) == 0 || !attend(ggml_backend_reg_dev_get(registry, 0), keys)) {
        result["absent"] = Json::array({{{"reason", "failed"}, {"text", "attention could not be computed"}}});
        return result;
    }
    const Json statistics = Json::parse(text("atlas_statistics"), nullptr, false);
    if (statistics.is_discarded()) return result;
    result["absent"] = statistics["absent"];
    for (const Json& layer : statistics["layers"])
        result["takes_part"] =
            result["takes_part"] || layer["calls"].get<double>() > layer["exact_calls"].get<double>();
    return result;
}

}  // namespace atlas::tool
