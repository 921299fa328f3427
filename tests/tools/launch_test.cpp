#include "launch.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "settings.h"

namespace atlas::tool {
namespace {

using Strings = std::vector<std::string>;

std::string variable(const Launch& launch, const std::string& name) {
    for (const auto& [key, value] : launch.environment) {
        if (key == name) return value;
    }
    return "(unset)";
}

TEST(LaunchTest, SwitchesBecomeVariablesAndTheRestPassesThrough) {
    const Launch launch = plan_launch({"llama-server", "-m", "x.gguf", "--atlas-kv-ram", "2G", "--port", "81",
                                       "--atlas-kernel=avx2", "--atlas-debug"},
                                      "/l.so");
    ASSERT_EQ(launch.error, "");
    EXPECT_EQ(launch.command, (Strings{"llama-server", "-m", "x.gguf", "--port", "81"}));
    EXPECT_EQ(variable(launch, "GGML_BACKEND_PATH"), "/l.so");
    EXPECT_EQ(variable(launch, "ATLAS_KV_RAM"), "2G");
    EXPECT_EQ(variable(launch, "ATLAS_KERNEL"), "avx2");
    EXPECT_EQ(variable(launch, "ATLAS_DEBUG"), "1");
}

TEST(LaunchTest, ProgramsGetTheFlagsThatTheyNeed) {
    EXPECT_EQ(plan_launch({"llama-bench", "-m", "x"}, "l").command, (Strings{"llama-bench", "-m", "x", "-fa", "1"}));
    EXPECT_EQ(plan_launch({"llama-bench", "-fa", "0"}, "l").command, (Strings{"llama-bench", "-fa", "0"}));
    EXPECT_EQ(plan_launch({"/usr/bin/llama-completion", "--atlas-device", "accel"}, "l").command,
              (Strings{"/usr/bin/llama-completion", "-fa", "on"}));
    EXPECT_EQ(plan_launch({"llama-simple", "-m", "x", "Hello"}, "l").command,
              (Strings{"llama-simple", "-ngl", "99", "-m", "x", "Hello"}));
    EXPECT_EQ(plan_launch({"llama-quantize", "a", "b"}, "l").command, (Strings{"llama-quantize", "a", "b"}));
    EXPECT_EQ(plan_launch({"my-own-program"}, "l").command, (Strings{"my-own-program"}));
}

TEST(LaunchTest, MemoriesBesideTheModelAreFound) {
    namespace fs = std::filesystem;
    const fs::path folder = fs::temp_directory_path() / ("atlas-launch-" + std::to_string(getpid()));
    fs::create_directories(folder);
    for (const char* name : {"a.gguf", "a.atlas.gguf", "b.gguf", "c-00001-of-00002.gguf", "c.atlas.gguf"})
        std::ofstream(folder / name) << "x";
    const std::string base = folder.string() + "/";
    const auto side_car = [&](const Strings& arguments) {
        return variable(plan_launch(arguments, "l"), "ATLAS_SIDE_CAR");
    };
    EXPECT_EQ(side_car({"llama-cli", "-m", base + "a.gguf"}), base + "a.atlas.gguf");
    EXPECT_EQ(side_car({"llama-cli", "--model", base + "a.gguf"}), base + "a.atlas.gguf");
    EXPECT_EQ(side_car({"llama-cli", "--model=" + base + "a.gguf"}), base + "a.atlas.gguf");
    EXPECT_EQ(side_car({"llama-cli", "-m", base + "c-00001-of-00002.gguf"}), base + "c.atlas.gguf");
    EXPECT_EQ(side_car({"llama-cli", "-m", base + "b.gguf"}), "(unset)");
    EXPECT_EQ(side_car({"llama-cli", "-m"}), "(unset)");
    EXPECT_EQ(side_car({"llama-cli", "-m", base + "a.gguf", "--atlas-side-car", "none"}), "none");
    EXPECT_EQ(side_car({"llama-cli", "-m", base + "b.gguf", "--atlas-side-car=own.gguf"}), "own.gguf");
    const Launch found = plan_launch({"llama-cli", "-m", base + "a.gguf"}, "l");
    EXPECT_EQ(variable(found, "ATLAS_MODEL"), base + "a.gguf");
    EXPECT_EQ(variable(plan_launch({"llama-cli", "-m", base + "b.gguf"}, "l"), "ATLAS_MODEL"), "(unset)");
    fs::remove_all(folder);
}

TEST(LaunchTest, ErrorsNameTheSwitchAndWhatThereIs) {
    const Launch unknown = plan_launch({"llama-cli", "--atlas-turbo", "1"}, "l");
    EXPECT_NE(unknown.error.find("--atlas-turbo"), std::string::npos);
    EXPECT_NE(unknown.error.find("--atlas-kv-ram"), std::string::npos);
    const Launch missing = plan_launch({"llama-cli", "--atlas-kv-ram"}, "l");
    EXPECT_NE(missing.error.find("--atlas-kv-ram needs a value"), std::string::npos);
    EXPECT_NE(plan_launch({"--atlas-debug"}, "l").error.find("no program given"), std::string::npos);
}

TEST(LaunchTest, AfterTwoDashesEverythingIsTheProgramsOwn) {
    const Launch launch = plan_launch({"tool", "--", "--atlas-kv-ram"}, "l");
    EXPECT_EQ(launch.error, "");
    EXPECT_EQ(launch.command, (Strings{"tool", "--", "--atlas-kv-ram"}));
}

TEST(LaunchTest, AMissingProgramIsReported) {
    EXPECT_NE(execute({{"no-such-program-of-llama"}, {}, ""}).find("no such program"), std::string::npos);
}

}  // namespace
}  // namespace atlas::tool
