#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace atlas::runtime {

/** What can be loaded and unloaded while a program runs. */
enum class Module : uint8_t {
    kExactAttention,
    kSparseAttention,
    kMemory,
    kTieredKv,
    kWeights,
    kActivationSparsity,
    kHybridWeights,
    kStreaming,
    kCuda
};
inline constexpr size_t kModules = static_cast<size_t>(Module::kCuda) + 1;

inline constexpr size_t index_of(Module module) { return static_cast<size_t>(module); }

/** "sparse-attention". */
const char* name_of(Module module);
/** One line. */
const char* description_of(Module module);
std::optional<Module> module_named(std::string_view name);

/** Whether `module` does nothing without `other`. */
inline constexpr bool needs(Module module, Module other) {
    return (module == Module::kSparseAttention && other == Module::kExactAttention) ||
           (module == Module::kMemory && (other == Module::kSparseAttention || other == Module::kExactAttention)) ||
           (module == Module::kActivationSparsity && other == Module::kWeights);
}

/** Whether it stands for an operation of the host's, so that the two can be timed beside each other. */
inline constexpr bool replaces_operation(Module module) {
    return module == Module::kExactAttention || module == Module::kSparseAttention || module == Module::kWeights ||
           module == Module::kActivationSparsity;
}

}  // namespace atlas::runtime
