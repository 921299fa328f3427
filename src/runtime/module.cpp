#include "runtime/module.h"

namespace atlas::runtime {
namespace {

struct Text {
    const char* name;
    const char* description;
};

constexpr Text kTexts[kModules] = {
    {"exact-attention", "attention over every visible key, by Atlas's kernels"},
    {"sparse-attention", "in long contexts, selected keys exactly and an estimate of the rest"},
    {"atlas-memory", "memories that learn at test time what the estimate gets wrong"},
    {"tiered-kv", "pages of the KV cache go to disk where the pool has no room for them"},
    {"weights", "products with weights in their GGUF blocks, and what lies between them"},
    {"activation-sparsity",
     "single tokens leave out the smallest inputs of each layer's last product (f16, bf16, f32)"},
    {"hybrid-weights", "weights in f16, bf16 and f32 are rounded while a model is loaded"},
    {"streaming", "weights that memory has no room for are read from their file for each graph"},
    {"cuda", "operations on NVIDIA GPUs"},
};

}  // namespace

const char* name_of(Module module) { return kTexts[index_of(module)].name; }
const char* description_of(Module module) { return kTexts[index_of(module)].description; }

std::optional<Module> module_named(std::string_view name) {
    for (size_t i = 0; i < kModules; ++i) {
        if (name == kTexts[i].name) return static_cast<Module>(i);
    }
    return std::nullopt;
}

}  // namespace atlas::runtime
