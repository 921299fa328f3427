#include "c_api/context_sessions.h"

#include "c_api/host_functions.h"
#include "runtime/plugin_runtime.h"

namespace atlas::c_api {

atlas_status reach_sessions(llama_context* ctx, const runtime::Collector& collector, std::string* why) {
    *why = "ctx is NULL";
    if (!ctx) return ATLAS_INVALID_ARGUMENT;
    void* address = nullptr;
    if (const Status status = find_host_function("llama_synchronize", &address); !status.is_ok()) {
        *why = status.message();
        return ATLAS_NO_LLAMA;
    }
    reinterpret_cast<void (*)(llama_context*)>(address)(ctx);
    if (!collector.sessions().empty()) return ATLAS_OK;
    *why = "this context does not run on Atlas (" + std::to_string(runtime::plugin_runtime()->sessions().size()) +
           " contexts of this process do); its model was loaded before the backend, or for other devices";
    return ATLAS_NOT_ACTIVE;
}

}  // namespace atlas::c_api
