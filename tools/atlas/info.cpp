#include "info.h"

#include <atlas/atlas-runtime.h>
#include <ggml-backend.h>
#include <ggml.h>

#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "child.h"
#include "launch.h"
#include "model_facts.h"
#include "recipes.h"
#include "trial.h"

namespace atlas::tool {
namespace {

using Json = nlohmann::ordered_json;

Json describe_device(ggml_backend_dev_t device) {
    size_t free = 0;
    size_t total = 0;
    ggml_backend_dev_memory(device, &free, &total);
    return {{"name", ggml_backend_dev_name(device)},
            {"description", ggml_backend_dev_description(device)},
            {"memory_free", free},
            {"memory_total", total}};
}

/** Runs in the child: what the host would see. */
Json load_plugin(const std::string& library) {
    ggml_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    ggml_backend_load_all();
    Json result{{"loads", false}, {"devices", Json::array()}};
    ggml_backend_reg_t registry = ggml_backend_load(library.c_str());
    if (!registry) return result;
    result["loads"] = true;
    using Describe = const char* (*)();
    const auto text = [&](const char* name) -> Json {
        const auto describe = reinterpret_cast<Describe>(ggml_backend_reg_get_proc_address(registry, name));
        return describe ? Json(describe()) : Json(nullptr);
    };
    result["kernels"] = text("atlas_kernels");
    result["cuda"] = text("atlas_cuda");
    result["backend_api"] = text("atlas_backend_api");
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i)
        result["devices"].push_back(describe_device(ggml_backend_dev_get(i)));
    result["attention"] = try_attention(registry);
    return result;
}

/** A line of the table: where Atlas knows the family of an architecture. */
std::string family_of(const std::string& library, const ModelFacts& model) {
    const ChildResult child = run_in_child([&] {
        unsetenv("GGML_BACKEND_PATH");
        ggml_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
        ggml_backend_load_all();
        ggml_backend_reg_t registry = ggml_backend_load(library.c_str());
        const auto find = [&](const char* name) {
            return registry ? ggml_backend_reg_get_proc_address(registry, name) : nullptr;
        };
        const auto from_name =
            reinterpret_cast<decltype(&atlas_runtime_arch_from_name)>(find("atlas_runtime_arch_from_name"));
        const auto name_of = reinterpret_cast<decltype(&atlas_runtime_arch_name)>(find("atlas_runtime_arch_name"));
        if (!from_name || !name_of) return std::string();
        return std::string(name_of(from_name(model.architecture.c_str())));
    });
    return child.status == 0 ? child.output : "";
}

/** What was asked for, and whether a trial did it. */
std::string describe_attention(const Json& attention) {
    const std::string asked = attention["asked"];
    if (asked.empty()) return "exact";
    const std::string keys = std::to_string(attention["keys"].get<int64_t>()) + " keys";
    if (attention["takes_part"]) return asked + ", which takes part (tried with " + keys + ")";
    std::string reasons;
    for (const Json& one : attention.value("absent", Json::array()))
        reasons += (reasons.empty() ? "" : "; ") + one["text"].get<std::string>();
    return asked + ", which takes NO part with " + keys + ": " +
           (reasons.empty() ? "sinks and window hold all of them" : reasons);
}

}  // namespace

Json plugin_facts(const std::string& library) {
    // A plug-in that crashes must not take this program along.
    const ChildResult child = run_in_child([&] {
        unsetenv("GGML_BACKEND_PATH");
        return load_plugin(library).dump();
    });
    if (!child.error.empty()) return {{"loads", false}, {"error", child.error}};
    if (child.signal != 0)
        return {{"loads", false}, {"error", "loading ended with signal " + std::to_string(child.signal)}};
    Json result = Json::parse(child.output, nullptr, false);
    return result.is_discarded() ? Json{{"loads", false}, {"error", "no result"}} : result;
}

int print_model_info(const std::string& path, const std::string& library, bool json) {
    ModelFacts model;
    if (const std::string error = read_model(path, &model); !error.empty()) {
        std::fprintf(stderr, "atlas: %s\n", error.c_str());
        return 1;
    }
    const std::string family = family_of(library, model);
    const std::string side_car = side_car_beside(path);
    const int64_t fits = fitting_context(model, free_memory());
    if (json) {
        Json types = Json::object();
        for (const auto& [type, bytes] : model.by_type) types[type] = bytes;
        const Json info{{"model", path},
                        {"name", model.name},
                        {"architecture", model.architecture},
                        {"family", family},
                        {"parameters", model.parameters},
                        {"bytes", model.bytes},
                        {"types", types},
                        {"layers", model.layers},
                        {"heads", model.heads},
                        {"kv_heads", model.kv_heads},
                        {"head_dim", model.key_length},
                        {"context", model.context},
                        {"experts", model.experts},
                        {"experts_used", model.experts_used},
                        {"sliding_window", model.sliding_window},
                        {"kv_bytes_per_token", model.kv_bytes_per_token},
                        {"fitting_context", fits},
                        {"side_car", side_car}};
        std::printf("%s\n", info.dump(2).c_str());
        return 0;
    }
    std::printf("model        %s\n", model.name.empty() ? path.c_str() : model.name.c_str());
    std::printf("architecture %s (family %s)\n", model.architecture.empty() ? "unknown" : model.architecture.c_str(),
                family.empty() ? "not known: the plug-in does not load, see atlas doctor" : family.c_str());
    std::string types;
    for (const auto& [type, bytes] : model.by_type)
        types += (types.empty() ? "" : ", ") + type + " " + size_text(bytes);
    std::printf("weights      %.1f million in %s: %s\n", static_cast<double>(model.parameters) * 1e-6,
                size_text(model.bytes).c_str(), types.c_str());
    std::printf("attention    %lld layers, %lld query and %lld KV heads of %lld", static_cast<long long>(model.layers),
                static_cast<long long>(model.heads), static_cast<long long>(model.kv_heads),
                static_cast<long long>(model.key_length));
    if (model.sliding_window > 0)
        std::printf(", sliding window of %lld in some", static_cast<long long>(model.sliding_window));
    std::printf("\n");
    if (model.experts > 0)
        std::printf("experts      %lld, of which a token uses %lld\n", static_cast<long long>(model.experts),
                    static_cast<long long>(model.experts_used));
    std::printf("context      %lld trained; KV cache (f16) %s a token, %s at that length\n",
                static_cast<long long>(model.context), size_text(model.kv_bytes_per_token).c_str(),
                size_text(model.kv_bytes_per_token * static_cast<uint64_t>(model.context)).c_str());
    std::printf("fits         %lld tokens beside the model in half of the free memory, %s\n",
                static_cast<long long>(fits), size_text(free_memory()).c_str());
    std::printf("memories     %s\n",
                side_car.empty() ? "none beside the model (atlas convert makes them)" : side_car.c_str());
    return 0;
}

int print_info(const std::string& library, bool json) {
    Json info{{"ggml", ggml_version()}, {"library", library}};
    info.update(plugin_facts(library));
    const bool loads = info["loads"];
    if (json) {
        std::printf("%s\n", info.dump(2).c_str());
        return loads ? 0 : 1;
    }
    std::printf("ggml         %s\nlibrary      %s\n", ggml_version(), library.c_str());
    if (!loads) {
        std::printf("loads        no: %s\n", info.value("error", "the reason is in its message above").c_str());
        return 1;
    }
    const auto text = [&](const char* key) {
        return info[key].is_string() ? info[key].get<std::string>() : std::string("unknown");
    };
    std::printf("loads        yes\nbackend API  %s\nkernels      %s\nCUDA         %s\n", text("backend_api").c_str(),
                text("kernels").c_str(), text("cuda").c_str());
    for (const Json& device : info["devices"]) {
        std::printf("device       %-8s %s, %.1f of %.1f GiB free\n", device["name"].get<std::string>().c_str(),
                    device["description"].get<std::string>().c_str(), device["memory_free"].get<double>() / (1 << 30),
                    device["memory_total"].get<double>() / (1 << 30));
    }
    std::printf("attention    %s\n", describe_attention(info["attention"]).c_str());
    return 0;
}

}  // namespace atlas::tool
