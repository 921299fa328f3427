#include "host/public_functions.h"

#include "atlas/atlas-runtime.h"
#include "atlas/atlas.h"
#include "atlas/calibration.h"
#include "atlas/llama-atlas.h"
#include "atlas/memory_ops.h"

namespace atlas::host {
namespace {

struct Function {
    std::string_view name;
    void* address;
};

#define FUNCTION(name) {#name, reinterpret_cast<void*>(&name)}

// A test compares this with the headers and with what the library exports.
const Function kFunctions[] = {
    FUNCTION(atlas_last_error),
    FUNCTION(atlas_status_name),
    FUNCTION(atlas_library_path),
    FUNCTION(llama_model_has_atlas),
    FUNCTION(llama_set_atlas_enabled),
    FUNCTION(llama_set_atlas_blend_ratio),
    FUNCTION(llama_set_atlas_feature_type),
    FUNCTION(llama_set_atlas_option),
    FUNCTION(llama_reset_atlas_memory),
    FUNCTION(llama_get_atlas_stats),
    FUNCTION(atlas_runtime_default_params),
    FUNCTION(atlas_runtime_validate_params),
    FUNCTION(atlas_runtime_init),
    FUNCTION(atlas_runtime_cleanup),
    FUNCTION(atlas_runtime_enable_for_context),
    FUNCTION(atlas_runtime_disable_for_context),
    FUNCTION(atlas_runtime_detect_architecture),
    FUNCTION(atlas_runtime_get_arch_config),
    FUNCTION(atlas_runtime_arch_name),
    FUNCTION(atlas_runtime_arch_from_name),
    FUNCTION(atlas_runtime_load_module),
    FUNCTION(atlas_runtime_unload_module),
    FUNCTION(atlas_runtime_get_active_modules),
    FUNCTION(atlas_runtime_get_modules),
    FUNCTION(atlas_runtime_get_model_config),
    FUNCTION(atlas_runtime_resize_pool),
    FUNCTION(atlas_runtime_get_pool_usage),
    FUNCTION(atlas_runtime_get_pool_capacity),
    FUNCTION(atlas_runtime_get_stats),
    FUNCTION(atlas_runtime_reset_stats),
    FUNCTION(atlas_runtime_error_string),
    FUNCTION(atlas_runtime_get_last_error),
    FUNCTION(atlas_calibration_check_target),
    FUNCTION(atlas_calibration_begin),
    FUNCTION(atlas_calibration_begin_document),
    FUNCTION(atlas_calibration_finish),
    FUNCTION(atlas_calibration_free),
    FUNCTION(atlas_memory_default_params),
    FUNCTION(atlas_memory_create),
    FUNCTION(atlas_memory_free),
    FUNCTION(atlas_memory_reset),
    FUNCTION(atlas_memory_state_size),
    FUNCTION(atlas_memory_save),
    FUNCTION(atlas_memory_restore),
    FUNCTION(atlas_memory_get_stats),
    FUNCTION(atlas_memory_feature_count),
    FUNCTION(atlas_memory_forward),
    FUNCTION(atlas_memory_update),
    FUNCTION(atlas_omega_loss),
    FUNCTION(atlas_muon_step),
    FUNCTION(atlas_feature_map),
};

#undef FUNCTION

}  // namespace

void* public_function(std::string_view name) {
    for (const Function& function : kFunctions) {
        if (function.name == name) return function.address;
    }
    return nullptr;
}

}  // namespace atlas::host
