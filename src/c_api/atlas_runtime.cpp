#include "atlas/atlas-runtime.h"

#include <cstddef>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "c_api/context_sessions.h"
#include "c_api/host_functions.h"
#include "c_api/host_model.h"
#include "c_api/runtime_ctx.h"
#include "c_api/runtime_result.h"
#include "runtime/plugin_runtime.h"
#include "runtime/session.h"

namespace atlas::c_api {
namespace {

using runtime::Family;
using runtime::ModelProfile;
using runtime::Module;

static_assert(static_cast<int>(Family::kAuto) == ATLAS_ARCH_AUTO);
static_assert(static_cast<int>(Family::kMixtral) == ATLAS_ARCH_MIXTRAL);
static_assert(static_cast<int>(Family::kGptOss) == ATLAS_ARCH_GPT_OSS);
static_assert(static_cast<int>(Family::kUnknown) == ATLAS_ARCH_UNKNOWN);

constexpr size_t kDefaultPool = size_t{256} << 20;
constexpr size_t kSmallestPool = size_t{1} << 20;
constexpr size_t kSmallestParams = offsetof(atlas_runtime_params, memory_pool_size) + sizeof(size_t);

constexpr Results kOfModules{ATLAS_RUNTIME_ERROR_MODULE_NOT_FOUND, ATLAS_RUNTIME_ERROR_POOL_EXHAUSTED};
constexpr Results kOfPools{ATLAS_RUNTIME_ERROR_INIT_FAILED, ATLAS_RUNTIME_ERROR_POOL_EXHAUSTED};

std::string number_text(double number) {
    char text[32];
    std::snprintf(text, sizeof text, "%g", number);
    return text;
}

Status check_range(const char* name, double value, double low, double high) {
    if (value >= low && value <= high) return Status::ok();  // not for NaN
    return Status::invalid_argument(std::string(name) + " " + number_text(value) + ": allowed is " + number_text(low) +
                                    " to " + number_text(high));
}

/** What the caller gave, 0 for fields that it does not have; ARCH_UNSUPPORTED is `unsupported`. */
Status take_params(const atlas_runtime_params* given, atlas_runtime_params* out) {
    if (given && given->size < kSmallestParams)
        return Status::invalid_argument("params->size " + std::to_string(given->size) +
                                        ": begin with atlas_runtime_default_params(), which sets it");
    if (Status status = c_function::take_sized(given, kSmallestParams, "params", out); !status.is_ok()) return status;
    const atlas_runtime_params& p = *out;
    if (Status status = check_range("sparsity_threshold", p.sparsity_threshold, 0, 1); !status.is_ok()) return status;
    if (Status status = check_range("optimization_level", p.optimization_level, 0, 2); !status.is_ok()) return status;
    if (p.max_modules < 1) return Status::invalid_argument("max_modules 0: allowed is at least 1");
    if (p.memory_pool_size != 0 && p.memory_pool_size < kSmallestPool)
        return Status::invalid_argument("memory_pool_size " + std::to_string(p.memory_pool_size) +
                                        ": allowed is 0 (no limit) or at least " + std::to_string(kSmallestPool));
    if (!p.auto_detect_arch && !p.arch_override)
        return Status::invalid_argument("arch_override is NULL: it is needed where auto_detect_arch is false");
    if (p.arch_override && !runtime::family_named(p.arch_override)) {
        std::string known;
        for (size_t i = 1; i + 1 < runtime::kFamilies; ++i)
            known += (known.empty() ? "" : ", ") + std::string(runtime::name_of(static_cast<Family>(i)));
        return Status::unsupported("arch_override \"" + std::string(p.arch_override) + "\": known are " + known +
                                   ", and the names that llama.cpp gives architectures of these");
    }
    return Status::ok();
}

Status not_null(const void* pointer, const char* name) {
    return pointer ? Status::ok() : Status::invalid_argument(std::string(name) + " is NULL");
}

atlas_arch_config config_of(const ModelProfile& from) {
    atlas_arch_config to{};
    to.arch = static_cast<atlas_arch_type>(from.family);
    to.name = runtime::name_of(from.family);
    to.layers = from.layers;
    to.heads = from.heads;
    to.kv_heads = from.kv_heads;
    to.head_dim = from.head_dim;
    to.context_length = from.context_length;
    to.experts = from.experts;
    to.experts_used = from.experts_used;
    to.sliding_window = from.sliding_window;
    to.global_every = from.global_every;
    to.softcap = from.softcap;
    to.alibi = from.alibi;
    to.attention_sinks = from.attention_sinks;
    to.recurrent = from.recurrent;
    to.window = from.window;
    to.sinks = from.sinks;
    to.budget = from.budget;
    to.threshold = from.threshold;
    return to;
}

/** Whether every layer of a model has a state in place of attention; false where libllama does not tell. */
bool is_recurrent(const llama_model* model) {
    void* address = nullptr;
    if (!find_host_function("llama_model_is_recurrent", &address).is_ok()) return false;
    return reinterpret_cast<bool (*)(const llama_model*)>(address)(model);
}

Status find_module(const char* name, Module* out) {
    if (Status status = not_null(name, "module_name"); !status.is_ok()) return status;
    if (const auto found = runtime::module_named(name)) {
        *out = *found;
        return Status::ok();
    }
    std::string known;
    for (size_t i = 0; i < runtime::kModules; ++i)
        known += (known.empty() ? "" : ", ") + std::string(runtime::name_of(static_cast<Module>(i)));
    return Status::unsupported("no module \"" + std::string(name) + "\": there are " + known);
}

size_t bytes_of(int64_t bytes) { return bytes > 0 ? static_cast<size_t>(bytes) : 0; }

atlas_module_info info_of(atlas_runtime_ctx& ctx, Module module) {
    const runtime::Work work = ctx.modules->activity().work();
    const runtime::Held held = ctx.modules->activity().held();
    const runtime::Measured& measured = work.measured[runtime::index_of(module)];
    atlas_module_info info{};
    info.name = runtime::name_of(module);
    info.description = runtime::description_of(module);
    info.arch = static_cast<atlas_arch_type>(ctx.modules->profile().family);
    info.is_active = ctx.modules->is_loaded(module);
    info.is_available = ctx.modules->absence_of(module).empty();
    info.reason = ctx.keep(ctx.modules->reason_of(module));
    info.calls = work.calls_of(module);
    info.performance_gain = static_cast<float>(measured.gain());
    info.samples = measured.samples;
    switch (module) {
        case Module::kExactAttention:
            info.memory_usage = bytes_of(held.scratch_bytes);
            break;
        case Module::kSparseAttention:
            info.memory_usage = bytes_of(held.index_bytes);
            break;
        case Module::kMemory:
            info.memory_usage = bytes_of(held.memory_bytes);
            if (work.memory_seconds > 0.0 && work.attention_seconds > work.memory_seconds)
                info.performance_gain =
                    static_cast<float>((work.attention_seconds - work.memory_seconds) / work.attention_seconds);
            break;
        case Module::kActivationSparsity:
            info.memory_usage = bytes_of(held.column_bytes);
            break;
        case Module::kHybridWeights:
            if (const weights::FormatStore* formats = ctx.runtime->formats())
                info.memory_usage = formats->stats().held_bytes;
            break;
        case Module::kStreaming:
            if (const weights::Streamer* streamer = ctx.runtime->streamer()) {
                const weights::StreamerStats stats = streamer->stats();
                info.memory_usage = stats.ring_bytes + stats.pinned_bytes + stats.experts.bytes;
            }
            break;
        case Module::kTieredKv:
        case Module::kWeights:
        case Module::kCuda:
            break;
    }
    return info;
}

template <typename Wanted>
Status give_modules(atlas_runtime_ctx* ctx, atlas_module_info* modules, size_t* count, const Wanted& wanted) {
    if (Status status = not_null(ctx, "ctx"); !status.is_ok()) return status;
    if (Status status = not_null(count, "count"); !status.is_ok()) return status;
    if (*count > 0 && !modules)
        return Status::invalid_argument("modules is NULL, and *count is " + std::to_string(*count));
    size_t n = 0;
    for (size_t i = 0; i < runtime::kModules; ++i) {
        const atlas_module_info info = info_of(*ctx, static_cast<Module>(i));
        if (!wanted(info)) continue;
        if (n < *count) modules[n] = info;
        ++n;
    }
    *count = n;
    return Status::ok();
}

atlas_runtime_stats stats_of(const atlas_runtime_ctx& ctx) {
    const runtime::Work work = ctx.modules->activity().work();
    const runtime::Held held = ctx.modules->activity().held();
    const auto mean = [](double sum, double n) { return n > 0 ? sum / n : 0.0; };
    atlas_runtime_stats to{};
    to.pool_used = ctx.runtime->kv_budget().in_use();
    to.pool_capacity = ctx.runtime->kv_budget().limit();
    to.index_memory = bytes_of(held.index_bytes);
    to.memories_memory = bytes_of(held.memory_bytes);
    to.scratch_memory = bytes_of(held.scratch_bytes);
    const size_t beside = to.index_memory + to.memories_memory;
    to.kv_memory = to.pool_used > beside ? to.pool_used - beside : 0;
    to.total_memory_used = to.pool_used + to.scratch_memory;
    to.modules_loaded = ctx.modules->loaded();
    to.average_speedup = static_cast<float>(work.speedup());
    to.speedup_samples = work.samples();
    to.sampling_share = static_cast<float>(mean(work.sampling_seconds, work.compute_seconds + work.sampling_seconds));
    to.operations_processed = work.own_nodes;
    to.operations_by_host = work.host_nodes;
    to.contexts = static_cast<uint32_t>(held.contexts);
    to.graphs = work.graphs;
    to.compute_seconds = work.compute_seconds;
    if (const kv::Pager* pager = ctx.runtime->pager()) {
        const kv::DiskStats disk = pager->stats().disk;
        to.kv_on_disk = disk.in_use;
        to.kv_disk_read = disk.read_bytes;
        to.kv_disk_written = disk.written_bytes;
    }
    to.attention_calls = work.attention_calls;
    to.estimated_calls = work.estimated_calls;
    to.attention_by_host = work.attention_by_host;
    to.visible_keys = mean(work.visible_keys, work.rows);
    to.exact_keys = mean(work.exact_keys, work.rows);
    to.products = work.products;
    to.sparse_products = work.sparse_products;
    to.sparse_bytes = work.sparse_bytes;
    to.sparse_bytes_read = work.sparse_bytes_read;
    to.products_by_host = work.products_by_host;
    to.memories = static_cast<uint64_t>(bytes_of(held.memories));
    return to;
}

/** Tells the sessions of a context whom to follow. */
atlas_runtime_result tell(const char* function, atlas_runtime_ctx* ctx, llama_context* llama_ctx, bool enable) {
    return runtime_guarded(function, {}, [&]() -> Status {
        if (Status status = not_null(ctx, "ctx"); !status.is_ok()) return status;
        if (Status status = not_null(llama_ctx, "llama_ctx"); !status.is_ok()) return status;
        runtime::Collector collector;
        std::string why;
        if (reach_sessions(llama_ctx, collector, &why) != ATLAS_OK) return Status::unsupported(why);
        for (runtime::Session* session : collector.sessions()) {
            if (!enable && session->modules() != ctx->modules)
                return Status::invalid_argument("llama_ctx was not enabled for this runtime");
            session->follow(enable ? ctx->modules : nullptr);
        }
        return Status::ok();
    });
}

}  // namespace
}  // namespace atlas::c_api

using namespace atlas;
using namespace atlas::c_api;

atlas_runtime_params atlas_runtime_default_params(void) {
    atlas_runtime_params params{};
    params.size = sizeof params;
    params.enable_atlas = true;
    params.auto_detect_arch = true;
    params.enable_lazy_loading = true;
    params.sparsity_threshold = 0.1f;
    params.optimization_level = 1.0f;
    params.max_modules = 16;
    params.memory_pool_size = kDefaultPool;
    return params;
}

atlas_runtime_result atlas_runtime_validate_params(const atlas_runtime_params* params) {
    return runtime_guarded(__func__, {ATLAS_RUNTIME_ERROR_ARCH_UNSUPPORTED}, [&] {
        atlas_runtime_params taken;
        return take_params(params, &taken);
    });
}

atlas_runtime_result atlas_runtime_init(atlas_runtime_ctx** ctx, const llama_model* model,
                                        const atlas_runtime_params* params) {
    const char* const function = __func__;
    return runtime_guarded(function, kOfPools, [&]() -> atlas_runtime_result {
        if (!ctx || !model)
            return fail_with(ATLAS_RUNTIME_ERROR_INVALID_PARAMS, function, ctx ? "model is NULL" : "ctx is NULL");
        atlas_runtime_params taken = atlas_runtime_default_params();
        if (params) {
            if (const Status status = take_params(params, &taken); !status.is_ok())
                return result_of(status, function, {ATLAS_RUNTIME_ERROR_ARCH_UNSUPPORTED});
        }
        runtime::Metadata metadata;
        if (const Status status = metadata_of(model, &metadata); !status.is_ok())
            return result_of(status, function, {});
        if (is_recurrent(model)) {
            const std::string text =
                "the model has no attention: " + metadata("general.architecture") + " is recurrent in all layers";
            return fail_with(ATLAS_RUNTIME_ERROR_INCOMPATIBLE_MODEL, function, text.c_str());
        }
        Family family = taken.auto_detect_arch ? runtime::family_of(metadata) : Family::kUnknown;
        auto made = std::make_unique<atlas_runtime_ctx>();
        made->runtime = runtime::plugin_runtime();
        // What the program says comes before what the environment does.
        const std::string& environment = made->runtime->options().arch;
        if (!taken.arch_override && environment != "auto") family = runtime::family_named(environment).value_or(family);
        if (family == Family::kUnknown && taken.arch_override)
            family = runtime::family_named(taken.arch_override).value_or(Family::kUnknown);
        side_car::SideCarUse& side_car = made->runtime->side_car();
        if (!taken.enable_lazy_loading && !side_car.path().empty() && !side_car.find()) {
            const std::string text = "ATLAS_SIDE_CAR=" + side_car.path() + " cannot be used; the log says why";
            return fail_with(ATLAS_RUNTIME_ERROR_INIT_FAILED, function, text.c_str());
        }
        runtime::ModuleSetOptions options;
        options.level = static_cast<double>(taken.optimization_level);
        options.most = taken.max_modules;
        options.enabled = taken.enable_atlas;
        options.auto_unload = taken.auto_unload;
        options.pool_bytes = taken.memory_pool_size;
        options.sparsity = static_cast<double>(taken.sparsity_threshold);
        made->modules =
            std::make_shared<runtime::ModuleSet>(*made->runtime, runtime::profile_of(family, metadata), options);
        if (const Status status = made->runtime->pools().set(made.get(), taken.memory_pool_size); !status.is_ok()) {
            const std::string text =
                "memory_pool_size " + std::to_string(taken.memory_pool_size) + ": " + status.message();
            return fail_with(ATLAS_RUNTIME_ERROR_POOL_EXHAUSTED, function, text.c_str());
        }
        *ctx = made.release();
        return ATLAS_RUNTIME_SUCCESS;
    });
}

void atlas_runtime_cleanup(atlas_runtime_ctx* ctx) {
    if (!ctx) return;
    ctx->modules->end();
    ctx->runtime->pools().remove(ctx);
    delete ctx;
}

atlas_runtime_result atlas_runtime_enable_for_context(atlas_runtime_ctx* ctx, llama_context* llama_ctx) {
    return tell(__func__, ctx, llama_ctx, true);
}

atlas_runtime_result atlas_runtime_disable_for_context(atlas_runtime_ctx* ctx, llama_context* llama_ctx) {
    return tell(__func__, ctx, llama_ctx, false);
}

atlas_arch_type atlas_runtime_detect_architecture(const llama_model* model) {
    Family family = Family::kUnknown;
    runtime_guarded(__func__, {}, [&]() -> Status {
        if (Status status = not_null(model, "model"); !status.is_ok()) return status;
        runtime::Metadata metadata;
        if (Status status = metadata_of(model, &metadata); !status.is_ok()) return status;
        family = runtime::family_of(metadata);
        return Status::ok();
    });
    return static_cast<atlas_arch_type>(family);
}

atlas_runtime_result atlas_runtime_get_arch_config(atlas_arch_type arch, atlas_arch_config* config) {
    return runtime_guarded(__func__, {}, [&]() -> Status {
        if (Status status = not_null(config, "config"); !status.is_ok()) return status;
        const int number = static_cast<int>(arch);
        if (number <= ATLAS_ARCH_AUTO || number > ATLAS_ARCH_UNKNOWN)
            return Status::invalid_argument("arch " + std::to_string(number) + ": allowed is 1 to " +
                                            std::to_string(ATLAS_ARCH_UNKNOWN));
        *config = config_of(*runtime::profile_of(static_cast<Family>(number)));
        return Status::ok();
    });
}

const char* atlas_runtime_arch_name(atlas_arch_type arch) {
    const int number = static_cast<int>(arch);
    if (number == ATLAS_ARCH_AUTO) return "auto";
    return number < 0 || number > ATLAS_ARCH_UNKNOWN ? "unknown" : runtime::name_of(static_cast<Family>(number));
}

atlas_arch_type atlas_runtime_arch_from_name(const char* name) {
    Family family = Family::kUnknown;
    runtime_guarded(__func__, {}, [&] {
        if (name) family = runtime::family_named(name).value_or(Family::kUnknown);
        return Status::ok();
    });
    return static_cast<atlas_arch_type>(family);
}

atlas_runtime_result atlas_runtime_load_module(atlas_runtime_ctx* ctx, const char* module_name) {
    return runtime_guarded(__func__, kOfModules, [&]() -> Status {
        if (Status status = not_null(ctx, "ctx"); !status.is_ok()) return status;
        Module module{};
        if (Status status = find_module(module_name, &module); !status.is_ok()) return status;
        return ctx->modules->load(module);
    });
}

atlas_runtime_result atlas_runtime_unload_module(atlas_runtime_ctx* ctx, const char* module_name) {
    return runtime_guarded(__func__, kOfModules, [&]() -> Status {
        if (Status status = not_null(ctx, "ctx"); !status.is_ok()) return status;
        Module module{};
        if (Status status = find_module(module_name, &module); !status.is_ok()) return status;
        ctx->modules->unload(module);
        return Status::ok();
    });
}

atlas_runtime_result atlas_runtime_get_active_modules(atlas_runtime_ctx* ctx, atlas_module_info* modules,
                                                      size_t* count) {
    return runtime_guarded(__func__, {}, [&] {
        return give_modules(ctx, modules, count, [](const atlas_module_info& info) { return info.is_active; });
    });
}

atlas_runtime_result atlas_runtime_get_modules(atlas_runtime_ctx* ctx, atlas_module_info* modules, size_t* count) {
    return runtime_guarded(
        __func__, {}, [&] { return give_modules(ctx, modules, count, [](const atlas_module_info&) { return true; }); });
}

atlas_runtime_result atlas_runtime_get_model_config(atlas_runtime_ctx* ctx, atlas_arch_config* config) {
    return runtime_guarded(__func__, {}, [&]() -> Status {
        if (Status status = not_null(ctx, "ctx"); !status.is_ok()) return status;
        if (Status status = not_null(config, "config"); !status.is_ok()) return status;
        *config = config_of(ctx->modules->profile());
        return Status::ok();
    });
}

atlas_runtime_result atlas_runtime_resize_pool(atlas_runtime_ctx* ctx, size_t new_size) {
    return runtime_guarded(__func__, kOfPools, [&]() -> Status {
        if (Status status = not_null(ctx, "ctx"); !status.is_ok()) return status;
        const std::string name = "new_size " + std::to_string(new_size) + ": ";
        if (new_size != 0 && new_size < kSmallestPool)
            return Status::invalid_argument(name + "allowed is 0 (no limit) or at least " +
                                            std::to_string(kSmallestPool));
        if (Status status = ctx->runtime->pools().set(ctx, new_size); !status.is_ok())
            return {status.code(), name + status.message()};
        ctx->modules->set_pool_bytes(new_size);
        return Status::ok();
    });
}

size_t atlas_runtime_get_pool_usage(const atlas_runtime_ctx* ctx) {
    return ctx ? ctx->runtime->kv_budget().in_use() : 0;
}

size_t atlas_runtime_get_pool_capacity(const atlas_runtime_ctx* ctx) {
    return ctx ? ctx->runtime->kv_budget().limit() : 0;
}

atlas_runtime_result atlas_runtime_get_stats(const atlas_runtime_ctx* ctx, atlas_runtime_stats* stats) {
    return runtime_guarded(__func__, {}, [&]() -> Status {
        if (Status status = not_null(ctx, "ctx"); !status.is_ok()) return status;
        if (Status status = not_null(stats, "stats"); !status.is_ok()) return status;
        *stats = stats_of(*ctx);
        return Status::ok();
    });
}

atlas_runtime_result atlas_runtime_reset_stats(atlas_runtime_ctx* ctx) {
    return runtime_guarded(__func__, {}, [&]() -> Status {
        if (Status status = not_null(ctx, "ctx"); !status.is_ok()) return status;
        ctx->modules->activity().reset();
        return Status::ok();
    });
}

const char* atlas_runtime_error_string(atlas_runtime_result result) {
    switch (result) {
        case ATLAS_RUNTIME_SUCCESS:
            return "success";
        case ATLAS_RUNTIME_ERROR_INVALID_PARAMS:
            return "invalid parameters";
        case ATLAS_RUNTIME_ERROR_MEMORY_ALLOCATION:
            return "no memory left";
        case ATLAS_RUNTIME_ERROR_ARCH_UNSUPPORTED:
            return "unknown architecture";
        case ATLAS_RUNTIME_ERROR_INIT_FAILED:
            return "initialisation failed";
        case ATLAS_RUNTIME_ERROR_MODULE_NOT_FOUND:
            return "no such module here";
        case ATLAS_RUNTIME_ERROR_POOL_EXHAUSTED:
            return "the pool is exhausted";
        case ATLAS_RUNTIME_ERROR_INCOMPATIBLE_MODEL:
            return "incompatible model";
    }
    return "unknown result";
}

const char* atlas_runtime_get_last_error(const atlas_runtime_ctx* /*ctx*/) { return atlas_last_error(); }
