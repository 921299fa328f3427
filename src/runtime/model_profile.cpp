#include "runtime/model_profile.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <iterator>

namespace atlas::runtime {
namespace {

struct Row {
    Family family;
    const char* name;
    /** Names of llama.cpp's architectures, each between blanks. */
    const char* architectures;
    int32_t
        global_every;  ///< where a sliding window is known but its pattern, a list, is not in the metadata that a program sees
    bool alibi;
    bool attention_sinks;
};

// docs/architectures.md says of which a model was seen working.
constexpr Row kRows[] = {
    {Family::kLlama, "llama",
     " llama llama4 llama-embed deci smollm3 minicpm minicpm3 arcee apertus seed_oss nanbeige ", 0, false, false},
    {Family::kMistral, "mistral", " mistral mistral3 mistral4 ministral ministral3 ", 0, false, false},
    {Family::kPhi, "phi", " phi2 phi3 phimoe ", 0, false, false},
    {Family::kGemma, "gemma", " gemma gemma2 gemma3 gemma3n gemma4 gemma-embedding gemma-embedding2 ", 6, false, false},
    {Family::kMixtral, "mixtral", " mixtral ", 0, false, false},
    {Family::kQwen, "qwen",
     " qwen qwen2 qwen2moe qwen2vl qwen3 qwen3moe qwen3next qwen3vl qwen3vlmoe qwen35 qwen35moe qwen4exp ", 0, false,
     false},
    {Family::kOpt, "opt", " opt ", 0, false, false},
    {Family::kFalcon, "falcon", " falcon falcon-h1 ", 0, false, false},
    {Family::kMpt, "mpt", " mpt ", 0, true, false},
    {Family::kBloom, "bloom", " bloom ", 0, true, false},
    {Family::kGptNeox, "gptneox", " gptneox gptj ", 0, false, false},
    {Family::kGptOss, "gpt-oss", " gpt-oss ", 2, false, true},
    {Family::kDeepseek, "deepseek", " deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4 ", 0, false, false},
    {Family::kCommandR, "command-r", " command-r cohere2 cohere2moe ", 4, false, false},
    {Family::kStarcoder, "starcoder", " starcoder starcoder2 refact ", 0, false, false},
    {Family::kGlm, "glm", " chatglm glm4 glm4moe glm-dsa glm5-next ", 0, false, false},
    {Family::kGranite, "granite", " granite granitemoe granitehybrid graniteswitch granite_swa ", 0, false, false},
    {Family::kOlmo, "olmo", " olmo olmo2 olmoe ", 4, false, false},
    {Family::kStablelm, "stablelm", " stablelm ", 0, false, false},
    {Family::kUnknown, "unknown", "  ", 0, false, false},
};
static_assert(std::size(kRows) == kFamilies - 1);

const Row* row_of(Family family) {
    const auto found =
        std::find_if(std::begin(kRows), std::end(kRows), [&](const Row& row) { return row.family == family; });
    return found == std::end(kRows) ? nullptr : found;
}

std::string lower(std::string_view text) {
    std::string out(text);
    for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return out;
}

template <typename Number>
void read(const std::string& text, Number* out) {
    Number number{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error == std::errc() && end != text.data()) *out = number;
}

}  // namespace

const char* name_of(Family family) {
    const Row* row = row_of(family);
    return row ? row->name : "unknown";
}

std::optional<ModelProfile> profile_of(Family family) {
    const Row* row = row_of(family);
    if (!row) return std::nullopt;
    ModelProfile profile;
    profile.family = family;
    profile.alibi = row->alibi;
    profile.attention_sinks = row->attention_sinks;
    profile.global_every = row->global_every;
    return profile;
}

std::optional<Family> family_named(std::string_view name) {
    if (name.empty() || name.find(' ') != std::string_view::npos) return std::nullopt;
    const std::string wanted = lower(name);
    for (const Row& row : kRows) {
        if (row.family != Family::kUnknown && wanted == row.name) return row.family;
    }
    for (const Row& row : kRows) {
        if (std::string_view(row.architectures).find(" " + wanted + " ") != std::string_view::npos) return row.family;
    }
    return std::nullopt;
}

Family family_of(const Metadata& metadata) {
    const std::string architecture = metadata("general.architecture");
    const Family family = family_named(architecture).value_or(Family::kUnknown);
    if (architecture != "llama") return family;
    // Files of Mistral's models say "llama"; those with experts are Mixtral's, since Llama 4 has a name of its own.
    int32_t experts = 0;
    read(metadata("llama.expert_count"), &experts);
    const std::string name = lower(metadata("general.name")) + " " + lower(metadata("general.basename"));
    if (experts > 0 || name.find("mixtral") != std::string::npos) return Family::kMixtral;
    for (const char* one : {"mistral", "ministral", "codestral", "devstral", "magistral"}) {
        if (name.find(one) != std::string::npos) return Family::kMistral;
    }
    return Family::kLlama;
}

ModelProfile profile_of(Family family, const Metadata& metadata) {
    ModelProfile profile = profile_of(family).value_or(ModelProfile{});
    profile.family = family;
    const std::string prefix = metadata("general.architecture") + ".";
    const auto value = [&](const char* key) { return metadata(prefix + key); };
    read(value("block_count"), &profile.layers);
    read(value("context_length"), &profile.context_length);
    read(value("attention.head_count"), &profile.heads);
    profile.kv_heads = profile.heads;
    read(value("attention.head_count_kv"), &profile.kv_heads);
    int32_t width = 0;
    read(value("embedding_length"), &width);
    if (profile.heads > 0) profile.head_dim = width / profile.heads;
    read(value("attention.key_length"), &profile.head_dim);
    read(value("expert_count"), &profile.experts);
    read(value("expert_used_count"), &profile.experts_used);
    read(value("attention.sliding_window"), &profile.sliding_window);
    read(value("attention.sliding_window_pattern"), &profile.global_every);
    read(value("attn_logit_softcapping"), &profile.softcap);
    float bias = 0.0f;
    read(value("attention.max_alibi_bias"), &bias);
    profile.alibi = profile.alibi || bias > 0.0f;
    profile.recurrent =
        !value("ssm.state_size").empty() || !value("wkv.head_size").empty() || !value("ssm.conv_kernel").empty();
    if (profile.sliding_window <= 0) {
        profile.sliding_window = 0;
        profile.global_every = 0;
    }
    // Files give Gemma 2's every second layer no key of its own.
    if (metadata("general.architecture") == "gemma2" && profile.sliding_window > 0 &&
        value("attention.sliding_window_pattern").empty())
        profile.global_every = 2;
    return profile;
}

}  // namespace atlas::runtime
