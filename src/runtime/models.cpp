#include "runtime/models.h"

#include <variant>
#include <vector>

#include "gguf/fingerprint.h"
#include "gguf/reader.h"
#include "runtime/runtime.h"
#include "side_car/model_file.h"
#include "side_car/use.h"

namespace atlas::runtime {
namespace {

std::string text_of(const gguf::Metadata& file, const char* key) {
    const auto found = file.keys.find(key);
    const auto* text = found == file.keys.end() ? nullptr : std::get_if<std::string>(&found->second);
    return text ? *text : std::string();
}

uint64_t elements_of(const gguf::Metadata& file) {
    uint64_t sum = 0;
    for (const auto& [name, tensor] : file.tensors) {
        sum += tensor.elements;
    }
    return sum;
}

}  // namespace

bool has_learned_memories(Runtime& runtime, const ModelFacts& model) {
    const std::shared_ptr<const side_car::SideCar> side_car = runtime.side_car().find();
    const std::string& named = runtime.options().model;
    if (!side_car) return false;
    for (const std::string& path : named.empty() ? side_car::open_gguf_files() : std::vector<std::string>{named}) {
        uint64_t fingerprint = 0;
        gguf::Metadata file;
        if (!gguf::fingerprint_of(path, &fingerprint).is_ok() || fingerprint != side_car->fingerprint ||
            !gguf::read(path, &file).is_ok())
            continue;
        if (text_of(file, "general.architecture") == model.architecture &&
            text_of(file, "general.name") == model.name && elements_of(file) == model.n_params)
            return true;
    }
    return false;
}

}  // namespace atlas::runtime
