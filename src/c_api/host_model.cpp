#include "c_api/host_model.h"

#include <cstdint>
#include <string>

#include "c_api/host_functions.h"

namespace atlas::c_api {

Status metadata_of(const llama_model* model, runtime::Metadata* out) {
    void* address = nullptr;
    if (Status status = find_host_function("llama_model_meta_val_str", &address); !status.is_ok()) return status;
    const auto read = reinterpret_cast<int32_t (*)(const llama_model*, const char*, char*, size_t)>(address);
    *out = [read, model](const std::string& key) {
        char text[256] = "";
        return read(model, key.c_str(), text, sizeof text) < 0 ? std::string() : std::string(text);
    };
    return Status::ok();
}

}  // namespace atlas::c_api
