#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace atlas::runtime {

/** Families of architectures, in the order of atlas_arch_type. */
enum class Family : uint8_t {
    kAuto,
    kLlama,
    kMistral,
    kPhi,
    kGemma,
    kMixtral,
    kQwen,
    kOpt,
    kFalcon,
    kMpt,
    kBloom,
    kGptNeox,
    kGptOss,
    kDeepseek,
    kCommandR,
    kStarcoder,
    kGlm,
    kGranite,
    kOlmo,
    kStablelm,
    kUnknown,
};
inline constexpr size_t kFamilies = static_cast<size_t>(Family::kUnknown) + 1;

/** What is known of a family, or of a model of it; 0 where nothing is. */
struct ModelProfile {
    Family family = Family::kUnknown;
    int32_t layers = 0;
    int32_t heads = 0;
    int32_t kv_heads = 0;
    int32_t head_dim = 0;
    int32_t context_length = 0;
    int32_t experts = 0;
    int32_t experts_used = 0;
    int32_t sliding_window = 0;
    int32_t global_every = 0;
    float softcap = 0.0f;
    bool alibi = false;
    bool attention_sinks = false;
    bool recurrent = false;
    // What sparse attention is set to, where the environment says nothing else.
    int32_t window = 128;
    int32_t sinks = 64;
    int32_t budget = 2048;
    int32_t threshold = 4096;
};

/** "llama"; "unknown". */
const char* name_of(Family family);

/** The profile of a family; none for kAuto. */
std::optional<ModelProfile> profile_of(Family family);

/** The family of a name: its own, or one that llama.cpp gives an architecture of it ("qwen3moe"); any case. */
std::optional<Family> family_named(std::string_view name);

/** Value of a key of the model's metadata, "" where it has none. */
using Metadata = std::function<std::string(const std::string& key)>;

/** Family by general.architecture; where that is "llama", which many are, by general.name and the experts. Throws what `metadata` throws. */
Family family_of(const Metadata& metadata);

/** The family's profile, with what the model's own metadata say in place of it. */
ModelProfile profile_of(Family family, const Metadata& metadata);

}  // namespace atlas::runtime
