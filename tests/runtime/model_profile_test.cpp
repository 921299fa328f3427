#include "runtime/model_profile.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace atlas::runtime {
namespace {

Metadata of(std::map<std::string, std::string> keys) {
    return [keys = std::move(keys)](const std::string& key) {
        const auto found = keys.find(key);
        return found == keys.end() ? std::string() : found->second;
    };
}

TEST(ModelProfileTest, FamiliesByArchitecture) {
    const std::pair<const char*, Family> kKnown[] = {
        {"llama", Family::kLlama},        {"qwen3moe", Family::kQwen},    {"gemma3", Family::kGemma},
        {"phi3", Family::kPhi},           {"falcon-h1", Family::kFalcon}, {"mpt", Family::kMpt},
        {"bloom", Family::kBloom},        {"gpt-oss", Family::kGptOss},   {"mistral3", Family::kMistral},
        {"deepseek2", Family::kDeepseek}, {"glm4moe", Family::kGlm},      {"olmo2", Family::kOlmo}};
    for (const auto& [name, family] : kKnown)
        EXPECT_EQ(family_of(of({{"general.architecture", name}})), family) << name;
    EXPECT_EQ(family_of(of({{"general.architecture", "no-such"}})), Family::kUnknown);
    EXPECT_EQ(family_of(of({})), Family::kUnknown);
}

TEST(ModelProfileTest, FilesThatSayLlamaAreToldByExpertsAndName) {
    const auto family = [](std::map<std::string, std::string> keys) {
        keys["general.architecture"] = "llama";
        return family_of(of(std::move(keys)));
    };
    EXPECT_EQ(family({}), Family::kLlama);
    EXPECT_EQ(family({{"general.name", "Mistral 7B Instruct v0.2"}}), Family::kMistral);
    EXPECT_EQ(family({{"general.basename", "Codestral"}}), Family::kMistral);
    EXPECT_EQ(family({{"llama.expert_count", "8"}}), Family::kMixtral);
    EXPECT_EQ(family({{"llama.expert_count", "0"}}), Family::kLlama);
    EXPECT_EQ(family({{"general.name", "Mixtral 8x7B"}}), Family::kMixtral);
    // A name counts nowhere else.
    EXPECT_EQ(family_of(of({{"general.architecture", "qwen2"}, {"general.name", "mistral merge"}})), Family::kQwen);
}

TEST(ModelProfileTest, NamesOfFamiliesAndArchitectures) {
    EXPECT_EQ(family_named("LLaMA"), Family::kLlama);
    EXPECT_EQ(family_named("mixtral"), Family::kMixtral);
    EXPECT_EQ(family_named("Qwen2MoE"), Family::kQwen);
    EXPECT_FALSE(family_named("unknown").has_value());
    EXPECT_FALSE(family_named("").has_value());
    EXPECT_FALSE(family_named("phi2 phi3").has_value());
    for (size_t i = 1; i + 1 < kFamilies; ++i) {
        const auto family = static_cast<Family>(i);
        EXPECT_EQ(family_named(name_of(family)), family);
        ASSERT_TRUE(profile_of(family).has_value());
        EXPECT_EQ(profile_of(family)->family, family);
    }
    EXPECT_FALSE(profile_of(Family::kAuto).has_value());
}

TEST(ModelProfileTest, TheModelsOwnMetadataCount) {
    const Metadata gemma = of({{"general.architecture", "gemma3"},
                               {"gemma3.block_count", "18"},
                               {"gemma3.context_length", "32768"},
                               {"gemma3.embedding_length", "640"},
                               {"gemma3.attention.head_count", "4"},
                               {"gemma3.attention.head_count_kv", "1"},
                               {"gemma3.attention.key_length", "256"},
                               {"gemma3.attention.sliding_window", "512"}});
    const ModelProfile profile = profile_of(Family::kGemma, gemma);
    EXPECT_EQ(profile.layers, 18);
    EXPECT_EQ(profile.heads, 4);
    EXPECT_EQ(profile.kv_heads, 1);
    EXPECT_EQ(profile.head_dim, 256);
    EXPECT_EQ(profile.sliding_window, 512);
    EXPECT_EQ(profile.global_every, 6);
    EXPECT_FALSE(profile.alibi);
    // Every second layer of Gemma 2 is global, and without a window all are.
    EXPECT_EQ(profile_of(Family::kGemma, of({{"general.architecture", "gemma2"},
                                             {"gemma2.attention.sliding_window", "4096"},
                                             {"gemma2.attn_logit_softcapping", "50.000000"}}))
                  .global_every,
              2);
    EXPECT_EQ(profile_of(Family::kGemma, of({{"general.architecture", "gemma"}})).global_every, 0);
    EXPECT_FLOAT_EQ(profile_of(Family::kGemma,
                               of({{"general.architecture", "gemma2"}, {"gemma2.attn_logit_softcapping", "50.000000"}}))
                        .softcap,
                    50.0f);
    // Heads of a width that is not said, experts, biases, and numbers that are none.
    const ModelProfile other = profile_of(Family::kUnknown, of({{"general.architecture", "new"},
                                                                {"new.embedding_length", "1024"},
                                                                {"new.attention.head_count", "16"},
                                                                {"new.expert_count", "8"},
                                                                {"new.attention.max_alibi_bias", "8.0"},
                                                                {"new.block_count", "many"}}));
    EXPECT_EQ(other.head_dim, 64);
    EXPECT_EQ(other.kv_heads, 16);
    EXPECT_EQ(other.experts, 8);
    EXPECT_EQ(other.layers, 0);
    EXPECT_TRUE(other.alibi);
}

}  // namespace
}  // namespace atlas::runtime
