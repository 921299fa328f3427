#include "atlas/llama-atlas.h"

#include <charconv>
#include <string>

#include "base/c_function.h"
#include "c_api/context_sessions.h"
#include "c_api/host_functions.h"
#include "c_api/host_model.h"
#include "runtime/collector.h"
#include "runtime/models.h"
#include "runtime/plugin_runtime.h"
#include "runtime/session.h"

namespace atlas::c_api {
namespace {

using namespace c_function;

static_assert(static_cast<int>(MemoryFeatures::kIdentity) == ATLAS_FEATURE_IDENTITY);
static_assert(static_cast<int>(MemoryFeatures::kPolynomial) == ATLAS_FEATURE_POLYNOMIAL);
static_assert(static_cast<int>(MemoryFeatures::kExponential) == ATLAS_FEATURE_EXPONENTIAL);
static_assert(static_cast<int>(MemoryFeatures::kFourier) == ATLAS_FEATURE_FOURIER);
static_assert(static_cast<int>(MemoryFeatures::kRbf) == ATLAS_FEATURE_RBF);

/** Calls `body` with each session of the context, one in every known host; the first failure ends it. */
template <typename Body>
atlas_status for_sessions(llama_context* ctx, const char* function, Body body) noexcept {
    return guarded(function, [&] {
        runtime::Collector collector;
        std::string why;
        if (const atlas_status status = reach_sessions(ctx, collector, &why); status != ATLAS_OK)
            return fail(status, function, why.c_str());
        for (runtime::Session* session : collector.sessions()) {
            if (const Status status = body(*session); !status.is_ok()) return result_of(status, function);
        }
        return ATLAS_OK;
    });
}

double mebibytes(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

llama_atlas_stats stats_of(const runtime::Session& session) {
    const runtime::SessionStats from = session.stats();
    const attention::MemoryStats& memory = from.memory;
    const attention::LayerStats& planned = from.planned;
    llama_atlas_stats to{};
    to.memory_usage_mb = mebibytes(from.index_bytes + memory.bytes);
    to.window_fill_ratio = memory.window_fill;
    to.optimization_loss = memory.error_with;
    to.muon_iterations_completed = memory.muon_iterations;
    const auto looked_up = static_cast<double>(memory.cache_hits + memory.cache_misses);
    to.cache_hit_ratio = looked_up > 0 ? static_cast<double>(memory.cache_hits) / looked_up : 0.0;
    to.enabled = session.enabled();
    to.memory_enabled = session.memory_options().enabled;
    to.feature_type = static_cast<atlas_feature_type>(session.memory_options().features);
    to.blend_ratio = session.memory_options().blend_ratio;
    to.blend_ratio_in_use = memory.gate;
    to.optimization_loss_without = memory.error_without;
    to.index_mb = mebibytes(from.index_bytes);
    to.memories_mb = mebibytes(memory.bytes);
    to.memories = memory.memories;
    to.observations = memory.observations;
    to.learned = memory.learned;
    to.skipped = memory.skipped_pairs + memory.skipped_updates;
    to.attention_calls = from.calls;
    to.estimated_calls = planned.calls - planned.exact_calls;
    const auto mean = [](double sum, double n, double none) { return n > 0 ? sum / n : none; };
    to.visible_keys = mean(planned.visible_keys, planned.rows, 0.0);
    to.exact_keys = mean(planned.exact_keys, planned.rows, 0.0);
    to.retained_mass = mean(planned.retained_mass, planned.queries, 1.0);
    return to;
}

// What the first release knows of; a caller with less was not built from this header.
constexpr size_t kSmallestStats = offsetof(llama_atlas_stats, cache_hit_ratio) + sizeof(double);

/** The shortest text that is read as the same number. */
std::string number_text(float number) {
    char text[32];
    return {text, std::to_chars(text, text + sizeof text, number).ptr};
}

}  // namespace
}  // namespace atlas::c_api

using namespace atlas;
using namespace atlas::c_api;
using namespace atlas::c_function;

bool llama_model_has_atlas(const llama_model* model) {
    bool found = false;
    const char* function = "llama_model_has_atlas";
    guarded(function, [&] {
        if (!model) return fail(ATLAS_INVALID_ARGUMENT, function, "model is NULL");
        runtime::Metadata metadata;
        void* n_params = nullptr;
        Status status = metadata_of(model, &metadata);
        if (status.is_ok()) status = find_host_function("llama_model_n_params", &n_params);
        if (!status.is_ok()) return fail(ATLAS_NO_LLAMA, function, status.message().c_str());
        found = runtime::has_learned_memories(*runtime::plugin_runtime(),
                                              {metadata("general.architecture"), metadata("general.name"),
                                               reinterpret_cast<uint64_t (*)(const llama_model*)>(n_params)(model)});
        return ATLAS_OK;
    });
    return found;
}

atlas_status llama_set_atlas_enabled(llama_context* ctx, bool enabled) {
    return for_sessions(ctx, __func__, [&](runtime::Session& session) {
        if (enabled && session.runtime().options().device == DeviceMode::kAccel)
            return Status::unsupported(
                "enabled = true: with ATLAS_DEVICE=accel the KV cache is the CPU's, and every key is read");
        session.set_enabled(enabled);
        return Status::ok();
    });
}

atlas_status llama_set_atlas_blend_ratio(llama_context* ctx, float ratio) {
    return for_sessions(ctx, __func__, [&](runtime::Session& session) {
        return session.set_option("ATLAS_BLEND_RATIO", number_text(ratio));
    });
}

atlas_status llama_set_atlas_feature_type(llama_context* ctx, enum atlas_feature_type type) {
    return for_sessions(ctx, __func__, [&](runtime::Session& session) {
        const int number = static_cast<int>(type);
        if (number < ATLAS_FEATURE_IDENTITY || number > ATLAS_FEATURE_RBF)
            return Status::invalid_argument("type " + std::to_string(number) + ": allowed is 0 to " +
                                            std::to_string(ATLAS_FEATURE_RBF));
        return session.set_option("ATLAS_FEATURE_TYPE", word_of(static_cast<MemoryFeatures>(number)));
    });
}

atlas_status llama_set_atlas_option(llama_context* ctx, const char* name, const char* value) {
    return for_sessions(ctx, __func__, [&](runtime::Session& session) {
        if (!name || !value) return Status::invalid_argument(name ? "value is NULL" : "name is NULL");
        return session.set_option(name, value);
    });
}

atlas_status llama_reset_atlas_memory(llama_context* ctx) {
    return for_sessions(ctx, __func__, [](runtime::Session& session) {
        session.forget();
        return Status::ok();
    });
}

atlas_status llama_get_atlas_stats(llama_context* ctx, llama_atlas_stats* stats) {
    return for_sessions(ctx, __func__, [&](runtime::Session& session) {
        if (Status status = c_function::check_sized(stats, kSmallestStats, "stats"); !status.is_ok()) return status;
        c_function::give_sized(stats_of(session), stats);
        return Status::ok();
    });
}
