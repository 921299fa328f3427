#include "runtime/module_set.h"

#include <algorithm>
#include <cstdio>

#include "base/levels.h"
#include "base/log.h"
#include "runtime/runtime.h"

namespace atlas::runtime {
namespace {

// Before a module is unloaded for its slowness: fewer are noise. And it has to be slower by more than the clock's and the machine's own.
constexpr uint64_t kEnoughSamples = 16;
constexpr double kSlower = 0.95;
// Of the pool, which KV caches and indexes share with them.
constexpr uint64_t kMemoriesShare = 4;

}  // namespace

ModuleSet::ModuleSet(Runtime& runtime, ModelProfile profile, const ModuleSetOptions& options)
    : runtime_(runtime), profile_(profile), options_(options), pool_bytes_(options.pool_bytes) {
    if (!options.enabled) return;
    const auto try_load = [&](Module module) {
        if (Status status = load_locked(module); !status.is_ok()) reasons_[index_of(module)] = status.message();
    };
    try_load(Module::kExactAttention);
    if (options.level >= levels::kWeights) try_load(Module::kWeights);
    if (options.level >= levels::kSparse) try_load(Module::kSparseAttention);
    if (runtime.pager()) try_load(Module::kTieredKv);
    // Whatever the level: they hold memory that was asked for, or bound it.
    if (runtime.formats()) try_load(Module::kHybridWeights);
    if (runtime.streamer()) try_load(Module::kStreaming);
    if (options.level >= levels::kMemory) try_load(Module::kMemory);
    if (options.level < levels::kSparsity) return;
    if (options.sparsity >= levels::kLeastSparsity) {
        try_load(Module::kActivationSparsity);
    } else {
        char text[128];
        std::snprintf(text, sizeof text, "a sparsity_threshold of %g gains nothing: a level loads it from %g on",
                      options.sparsity, levels::kLeastSparsity);
        reasons_[index_of(Module::kActivationSparsity)] = text;
    }
}

std::string ModuleSet::absence_of(Module module) const {
    const Options& options = runtime_.options();
    switch (module) {
        case Module::kExactAttention:
            return {};
        case Module::kSparseAttention:
        case Module::kMemory:
            if (options.device == DeviceMode::kAccel)
                return "with ATLAS_DEVICE=accel the KV cache is the CPU's, and every key is read";
            if (module == Module::kMemory && profile_.alibi)
                return std::string("memories do not learn from attention that is biased by distance, as ") +
                       name_of(profile_.family) + "'s is";
            return {};
        case Module::kTieredKv:
            return runtime_.pager()
                       ? ""
                       : "a folder on a disk has to be named by ATLAS_KV_DISK before the library is loaded";
        case Module::kWeights:
            if (options.device == DeviceMode::kAccel)
                return "with ATLAS_DEVICE=accel the host computes all but attention";
            return options.weights == WeightsMode::kOwn
                       ? ""
                       : "the library was loaded with ATLAS_WEIGHTS=host, which leaves weights to the host";
        case Module::kActivationSparsity:
            if (const std::string absence = absence_of(Module::kWeights); !absence.empty()) return absence;
            return runtime_.streamer()
                       ? "with ATLAS_WEIGHTS_RAM or ATLAS_RAM weights are read from their file row by row"
                       : "";
        case Module::kHybridWeights:
            if (const std::string absence = absence_of(Module::kWeights); !absence.empty()) return absence;
            return runtime_.formats()
                       ? ""
                       : "a format has to be named by ATLAS_WEIGHT_FORMAT before the library is loaded, as weights are "
                         "rounded while a model is";
        case Module::kStreaming:
            if (const std::string absence = absence_of(Module::kWeights); !absence.empty()) return absence;
            return runtime_.streamer() ? ""
                                       : "ATLAS_WEIGHTS_RAM or ATLAS_RAM has to be set before the library is loaded, "
                                         "as it decides how a model's file is mapped";
        case Module::kCuda:
            return "this release computes on the CPU alone: its CUDA kernels are not called yet";
    }
    return {};
}

uint32_t ModuleSet::loaded_locked() const {
    return static_cast<uint32_t>(std::count(loaded_.begin(), loaded_.end(), true));
}

Status ModuleSet::load_locked(Module module) {
    bool& loaded = loaded_[index_of(module)];
    if (loaded) return Status::ok();
    const std::string name = name_of(module);
    if (const std::string absence = absence_of(module); !absence.empty())
        return Status::unsupported(name + ": " + absence);
    for (size_t i = 0; i < kModules; ++i) {
        const auto other = static_cast<Module>(i);
        if (needs(module, other) && !loaded_[i])
            return Status::invalid_argument(name + " needs " + name_of(other) + ", which is not loaded");
    }
    if (loaded_locked() >= options_.most)
        return Status::out_of_memory(name + ": " + std::to_string(options_.most) +
                                     " modules are loaded, which is max_modules; unload one");
    loaded = true;
    reasons_[index_of(module)].clear();
    if (module == Module::kTieredKv) runtime_.pager()->set_sending(true);
    changed();
    return Status::ok();
}

Status ModuleSet::load(Module module) {
    const std::lock_guard lock(mutex_);
    Status status = load_locked(module);
    if (status.is_ok()) by_name_[index_of(module)] = true;
    return status;
}

void ModuleSet::unload_locked(Module module) {
    for (size_t i = 0; i < kModules; ++i) {
        const auto other = static_cast<Module>(i);
        if (other != module && !needs(other, module)) continue;
        if (loaded_[i] && other == Module::kTieredKv) runtime_.pager()->set_sending(false);
        loaded_[i] = false;
        reasons_[i].clear();
    }
    changed();
}

void ModuleSet::unload(Module module) {
    const std::lock_guard lock(mutex_);
    if (loaded_[index_of(module)]) unload_locked(module);
}

void ModuleSet::end() {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    if (runtime_.pager()) runtime_.pager()->set_sending(true);
    changed();
}

bool ModuleSet::is_loaded(Module module) const {
    const std::lock_guard lock(mutex_);
    return loaded_[index_of(module)];
}

uint32_t ModuleSet::loaded() const {
    const std::lock_guard lock(mutex_);
    return loaded_locked();
}

std::string ModuleSet::reason_of(Module module) const {
    {
        const std::lock_guard lock(mutex_);
        if (loaded_[index_of(module)]) return {};
        if (!reasons_[index_of(module)].empty()) return reasons_[index_of(module)];
    }
    return absence_of(module);
}

void ModuleSet::set_pool_bytes(uint64_t bytes) {
    pool_bytes_.store(bytes, std::memory_order_relaxed);
    changed();
}

Orders ModuleSet::orders() const {
    const std::lock_guard lock(mutex_);
    Orders orders;
    orders.version = version();
    orders.ended = ended_;
    orders.own_attention = loaded_[index_of(Module::kExactAttention)];
    // Where it cannot be loaded there is nothing to leave to the host.
    orders.own_weights = loaded_[index_of(Module::kWeights)];
    orders.rounded = loaded_[index_of(Module::kHybridWeights)];
    orders.streamed = loaded_[index_of(Module::kStreaming)];
    orders.sparse = loaded_[index_of(Module::kSparseAttention)];
    if (runtime_.options().device == DeviceMode::kAccel) return orders;
    const bool memory = loaded_[index_of(Module::kMemory)];
    orders.options.emplace_back("ATLAS_MODE", orders.sparse ? "sparse" : "exact");
    orders.options.emplace_back("ATLAS_MEMORY", memory ? "1" : "0");
    if (!loaded_[index_of(Module::kActivationSparsity)]) {
        orders.options.emplace_back("ATLAS_SPARSITY", "0");
    } else if (!is_given(runtime_.options(), "ATLAS_SPARSITY")) {
        orders.options.emplace_back("ATLAS_SPARSITY", std::to_string(options_.sparsity));
    }
    // What the environment sets is the user's word, and stays.
    const auto add = [&](const char* name, uint64_t value) {
        if (!is_given(runtime_.options(), name)) orders.options.emplace_back(name, std::to_string(value));
    };
    const auto of = [](int32_t number) { return static_cast<uint64_t>(number); };
    const uint64_t part = options_.level >= levels::kMemory ? levels::kMemoryDivides : 1;
    add("ATLAS_WINDOW", of(profile_.window));
    add("ATLAS_SINKS", of(profile_.sinks));
    // A floor above it would contradict it.
    if (!is_given(runtime_.options(), "ATLAS_BUDGET_FLOOR")) add("ATLAS_BUDGET", of(profile_.budget) / part);
    add("ATLAS_THRESHOLD", of(profile_.threshold) / part);
    if (const uint64_t pool = pool_bytes(); memory && pool > 0) add("ATLAS_MEMORY_BUDGET", pool / kMemoriesShare);
    return orders;
}

void ModuleSet::look_at(const Work& work) {
    for (size_t i = 0; i < kModules; ++i) {
        const auto module = static_cast<Module>(i);
        const Measured& measured = work.measured[i];
        if (!replaces_operation(module) || measured.samples < kEnoughSamples || measured.own <= 0.0) continue;
        // Without exact attention the host's operation needs copies. Without sparse attention Atlas's exact one is there.
        const double copies = module == Module::kExactAttention ? measured.copies / measured.own : 0.0;
        const double gain = measured.gain() + copies;
        const std::lock_guard lock(mutex_);
        if (gain >= kSlower || !loaded_[i] || by_name_[i]) continue;
        unload_locked(module);
        char text[128];
        std::snprintf(text, sizeof text,
                      "unloaded by itself: %.2f times as fast as the host's operation, over %llu samples", gain,
                      static_cast<unsigned long long>(measured.samples));
        reasons_[i] = text;
        log().info("{}: {}", name_of(module), text);
    }
}

void ModuleSet::add(const Work& work) {
    activity_.add(work);
    if (options_.auto_unload && work.samples() > 0) look_at(activity_.work());
}

}  // namespace atlas::runtime
