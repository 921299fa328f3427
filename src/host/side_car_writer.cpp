#include "host/side_car_writer.h"

#include <ggml.h>
#include <gguf.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

namespace atlas::host {
namespace {

using runtime::GgufValue;

void set_key(gguf_context* file, const char* key, const GgufValue& value) {
    if (const auto* truth = std::get_if<bool>(&value)) gguf_set_val_bool(file, key, *truth);
    if (const auto* number = std::get_if<double>(&value)) gguf_set_val_f32(file, key, static_cast<float>(*number));
    if (const auto* text = std::get_if<std::string>(&value)) gguf_set_val_str(file, key, text->c_str());
    if (const auto* whole = std::get_if<int64_t>(&value)) gguf_set_val_u32(file, key, static_cast<uint32_t>(*whole));
    if (const auto* list = std::get_if<std::vector<int64_t>>(&value)) {
        const std::vector<int32_t> narrow(list->begin(), list->end());
        gguf_set_arr_data(file, key, GGUF_TYPE_INT32, narrow.data(), narrow.size());
    }
}

struct Free {
    void operator()(gguf_context* context) const { gguf_free(context); }
    void operator()(ggml_context* context) const { ggml_free(context); }
};

}  // namespace

Status write_side_car(const runtime::SideCarContent& content, const std::string& path) {
    const std::unique_ptr<gguf_context, Free> file(gguf_init_empty());
    const std::unique_ptr<ggml_context, Free> context(
        ggml_init({(content.tensors.size() + 1) * ggml_tensor_overhead(), nullptr, true}));
    if (!file || !context) return Status::out_of_memory("side-car: " + path);
    for (const auto& [key, value] : content.keys) set_key(file.get(), key.c_str(), value);
    for (const runtime::SideCarTensor& tensor : content.tensors) {
        ggml_tensor* made =
            ggml_new_tensor(context.get(), GGML_TYPE_F32, static_cast<int>(tensor.shape.size()), tensor.shape.data());
        ggml_set_name(made, tensor.name.c_str());
        made->data = const_cast<float*>(tensor.data.data());
        gguf_add_tensor(file.get(), made);
    }
    const std::string part = path + ".part";
    const bool written = gguf_write_to_file(file.get(), part.c_str(), false);
    if (!written || std::rename(part.c_str(), path.c_str()) != 0) {
        const std::string reason = std::strerror(errno);
        unlink(part.c_str());
        return Status::io(path + ": cannot be written: " + reason);
    }
    return Status::ok();
}

}  // namespace atlas::host
