#include "launch.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <thread>

#include "recipes.h"
#include "running.h"
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

TEST(LaunchTest, TheLaunchersOwnSwitches) {
    const Launch pool = plan_launch(
        {"llama-cli", "--atlas-memory-pool", "512M", "--atlas-enable", "--atlas-level", "1.5", "-p", "1"}, "/l.so");
    ASSERT_EQ(pool.error, "");
    EXPECT_EQ(variable(pool, "ATLAS_KV_RAM"), "512M");
    EXPECT_EQ(variable(pool, "ATLAS_LEVEL"), "1.5");
    EXPECT_EQ(pool.command, (Strings{"llama-cli", "-p", "1"}));
    EXPECT_FALSE(pool.plain);
    const Launch plain = plan_launch({"llama-cli", "--atlas-enable=0", "--atlas-mode", "sparse"}, "/l.so");
    EXPECT_TRUE(plain.plain);
    EXPECT_TRUE(plain.environment.empty());
    EXPECT_EQ(plan_launch({"llama-cli", "--atlas-enable=2"}, "l").error, "--atlas-enable 2: allowed is 0 or 1");
    EXPECT_EQ(variable(plan_launch({"llama-cli", "--atlas-sparsity", "0.4"}, "l"), "ATLAS_SPARSITY"), "0.4");
    EXPECT_NE(plan_launch({"llama-cli", "--atlas-memory-pool"}, "l").error.find("needs a value (bytes"),
              std::string::npos);
}

TEST(LaunchTest, AContextThatFits) {
    ModelFacts model;
    model.context = 32768;
    model.bytes = 1000 << 20;
    model.kv_bytes_per_token = 32 << 10;
    EXPECT_EQ(fitting_context(model, uint64_t{16} << 30), 32768);
    EXPECT_EQ(fitting_context(model, uint64_t{3} << 30), (512 + 24) * 32 / 1024 * 1024);
    EXPECT_EQ(fitting_context(model, 1 << 30), 4096);
    EXPECT_EQ(fitting_context(model, 0), 4096);
    // What a user bounds counts, less a tenth for an index.
    constexpr uint64_t kFree = uint64_t{16} << 30;
    EXPECT_EQ(fitting_context(model, kFree, {.kv_ram = 320 << 20}), 9 * 1024);
    EXPECT_EQ(fitting_context(model, kFree, {.kv_ram = 10 << 20}), 256) << "288, in pages";
    EXPECT_EQ(fitting_context(model, kFree, {.kv_ram = 1}), 64);
    EXPECT_EQ(fitting_context(model, kFree, {.kv_ram = uint64_t{4} << 30}), 32768);
    EXPECT_EQ(fitting_context(model, kFree, {.ram = 1320 << 20}), 9 * 1024) << "beside the weights";
    EXPECT_EQ(fitting_context(model, kFree, {.ram = 640 << 20}), 4 * 1024) << "a quarter: 144 MiB";
    EXPECT_EQ(fitting_context(model, kFree, {.ram = 640 << 20, .kv_ram = 32 << 20}), 896);
    EXPECT_EQ(fitting_context(model, kFree, {.kv_ram = 64 << 20, .disk = true}), 32768) << "the rest goes to disk";
    EXPECT_EQ(fitting_context(model, uint64_t{1} << 30, {.weights_ram = 100 << 20}), 12 * 1024) << "(512 - 100) MiB";
    model.context = 2048;
    EXPECT_EQ(fitting_context(model, 1 << 30), 2048);
    EXPECT_EQ(fitting_context(model, kFree, {.kv_ram = uint64_t{1} << 30}), 2048);
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
    EXPECT_EQ(plan_launch({"llama-server", "-m", "x", "--atlas-weights-ram", "2G"}, "l").command,
              (Strings{"llama-server", "-m", "x", "--no-warmup"}));
    EXPECT_EQ(plan_launch({"llama-server", "-m", "x", "--atlas-ram", "2G"}, "l").command,
              (Strings{"llama-server", "-m", "x", "--no-warmup"}));
    EXPECT_EQ(plan_launch({"llama-server", "--warmup", "--atlas-weights-ram", "2G"}, "l").command,
              (Strings{"llama-server", "--warmup"}));
    EXPECT_EQ(plan_launch({"llama-perplexity", "--atlas-weights-ram", "2G"}, "l").command,
              (Strings{"llama-perplexity"}));
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

TEST(LaunchTest, SwitchesThatMeanOneTakeADigitAndNothingElse) {
    const auto look = [](const Strings& arguments) { return plan_launch(arguments, "l"); };
    EXPECT_EQ(variable(look({"tool", "--atlas-stats", "1", "-x"}), "ATLAS_STATS"), "1");
    EXPECT_EQ(look({"tool", "--atlas-stats", "1", "-x"}).command, (Strings{"tool", "-x"}));
    EXPECT_EQ(variable(look({"tool", "--atlas-memory", "0"}), "ATLAS_MEMORY"), "0");
    EXPECT_EQ(look({"tool", "--atlas-memory", "prompt"}).command, (Strings{"tool", "prompt"}));
    EXPECT_EQ(variable(look({"tool", "--atlas-stats=a.json"}), "ATLAS_STATS"), "a.json");
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

TEST(LaunchTest, TwoDashesBeforeTheProgramEndTheSwitchesAndGo) {
    EXPECT_EQ(plan_launch({"--", "tool", "-m", "x"}, "l").command, (Strings{"tool", "-m", "x"}));
    const Launch launch = plan_launch({"--atlas-mode", "sparse", "--", "tool", "--", "--atlas-debug"}, "l");
    EXPECT_EQ(launch.error, "");
    EXPECT_EQ(launch.command, (Strings{"tool", "--", "--atlas-debug"}));
    EXPECT_EQ(variable(launch, "ATLAS_MODE"), "sparse");
    EXPECT_EQ(variable(launch, "ATLAS_DEBUG"), "(unset)");
    EXPECT_NE(plan_launch({"--"}, "l").error.find("no program given"), std::string::npos);
    EXPECT_NE(plan_launch({"--verbose", "tool"}, "l").error.find("--verbose: no switch of atlas"), std::string::npos);
}

class BackendPathTest : public ::testing::Test {
protected:
    void SetUp() override {
        std::filesystem::create_directories(folder_);
        for (const char* name : {"libggml-atlas.so", "libggml-atlas-old.so", "libggml-other.so"})
            std::ofstream(folder_ / name) << "x";
    }
    void TearDown() override {
        unsetenv("GGML_BACKEND_PATH");
        std::filesystem::remove_all(folder_);
    }
    Launch with(const std::string& path) {
        setenv("GGML_BACKEND_PATH", path.c_str(), 1);
        return plan_launch({"tool"}, library_);
    }

    const std::filesystem::path folder_ =
        std::filesystem::temp_directory_path() / ("atlas-backend-path-" + std::to_string(getpid()));
    const std::string library_ = folder_ / "libggml-atlas.so";
};

TEST_F(BackendPathTest, ThisCopyIsTakenWithoutAWord) {
    for (const std::string& path : {library_, (folder_ / "." / "libggml-atlas.so").string(), std::string()}) {
        const Launch launch = with(path);
        EXPECT_EQ(launch.error, "");
        EXPECT_TRUE(launch.notes.empty()) << launch.notes.front();
        EXPECT_EQ(variable(launch, "GGML_BACKEND_PATH"), library_);
    }
}

TEST_F(BackendPathTest, AnotherCopyOrNothingIsReplacedWithANote) {
    for (const char* name : {"libggml-atlas-old.so", "gone.so"}) {
        const Launch launch = with(folder_ / name);
        EXPECT_EQ(launch.error, "");
        ASSERT_EQ(launch.notes.size(), 1u);
        EXPECT_NE(launch.notes[0].find(folder_ / name), std::string::npos) << launch.notes[0];
        EXPECT_NE(launch.notes[0].find("taking " + library_), std::string::npos) << launch.notes[0];
        EXPECT_EQ(variable(launch, "GGML_BACKEND_PATH"), library_);
    }
}

TEST_F(BackendPathTest, SomeoneElsesPluginIsNotReplaced) {
    const Launch launch = with(folder_ / "libggml-other.so");
    EXPECT_NE(launch.error.find("libggml-other.so names another plug-in"), std::string::npos) << launch.error;
    EXPECT_EQ(variable(launch, "GGML_BACKEND_PATH"), "(unset)");
}

TEST(SettingsTest, EveryOptionHasASwitchAndTheShortHelpIsForUsers) {
    const Setting* mode = find_setting("atlas-mode");
    ASSERT_NE(mode, nullptr);
    EXPECT_STREQ(mode->variable, "ATLAS_MODE");
    EXPECT_EQ(mode->allowed, "exact, window, sparse");
    EXPECT_STREQ(mode->initial, "exact");
    EXPECT_FALSE(mode->expert);
    EXPECT_FALSE(mode->implies_one);
    for (const char* flag : {"atlas-memory", "atlas-debug", "atlas-stats"}) {
        ASSERT_NE(find_setting(flag), nullptr) << flag;
        EXPECT_TRUE(find_setting(flag)->implies_one) << flag;
    }
    ASSERT_NE(find_setting("atlas-test-time"), nullptr);
    EXPECT_FALSE(find_setting("atlas-test-time")->implies_one) << "on by itself: only 0 makes sense";
    EXPECT_TRUE(find_setting("atlas-test-time")->expert);
    EXPECT_EQ(find_setting("atlas-page-all"), nullptr) << "for tests";
    EXPECT_NE(
        describe_settings(false).find("--atlas-threshold     queries that see no more keys than this are exact\n"),
        std::string::npos);
    EXPECT_NE(describe_settings(false).find("--atlas-memory-pool   another name of --atlas-kv-ram\n"),
              std::string::npos);
    EXPECT_NE(describe_settings(true).find("--atlas-threshold  (0 to 1073741824; default 4096)"), std::string::npos);
    EXPECT_EQ(describe_settings(false).find("--atlas-omega-alpha"), std::string::npos);
    EXPECT_NE(describe_settings(true).find("--atlas-omega-alpha"), std::string::npos);
}

TEST(LaunchTest, AMissingProgramIsReported) {
    EXPECT_NE(execute({{"no-such-program-of-llama"}, {}, {}, "", false}).find("no such program"), std::string::npos);
}

TEST(RunningTest, SamplesOfPrometheusText) {
    const auto samples =
        parse_samples("# HELP a b\n# TYPE a gauge\na 1.5\nb{kind=\"x y\"} 2e3\nno number\nalone\n\n 7\n");
    EXPECT_EQ(samples, (std::map<std::string, double>{{"a", 1.5}, {"b{kind=\"x y\"}", 2000.0}}));
}

/** A socket that listens on any port of `host`; its port in *port. */
int listen_anywhere(uint32_t host, int* port) {
    const int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in name{};
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(host);
    socklen_t size = sizeof name;
    EXPECT_EQ(bind(listening, reinterpret_cast<sockaddr*>(&name), size), 0);
    EXPECT_EQ(listen(listening, 4), 0);
    EXPECT_EQ(getsockname(listening, reinterpret_cast<sockaddr*>(&name), &size), 0);
    *port = ntohs(name.sin_port);
    return listening;
}

TEST(RunningTest, WhereAProcessListensAndWhatIsAnswered) {
    EXPECT_EQ(listening_addresses(getpid()), Strings{});
    int port = 0, everywhere = 0;
    const int listening = listen_anywhere(INADDR_LOOPBACK, &port);
    const int open = listen_anywhere(INADDR_ANY, &everywhere);
    const std::string address = "127.0.0.1:" + std::to_string(port);
    Strings addresses = listening_addresses(getpid());
    std::sort(addresses.begin(), addresses.end());
    Strings expected{address, "127.0.0.1:" + std::to_string(everywhere)};
    std::sort(expected.begin(), expected.end());
    EXPECT_EQ(addresses, expected);
    close(open);
    for (const auto& [answer, body] :
         std::vector<std::pair<std::string, std::string>>{{"HTTP/1.1 200 OK\r\nX: y\r\n\r\na 1\n", "a 1\n"},
                                                          {"HTTP/1.1 404 Not Found\r\n\r\na 1\n", ""},
                                                          {"a 1\n", ""},
                                                          {"", ""}}) {
        std::thread server([&, text = answer] {
            const int connection = accept(listening, nullptr, nullptr);
            char request[512];
            const ssize_t n = recv(connection, request, sizeof request, 0);
            EXPECT_TRUE(
                std::string(request, n > 0 ? static_cast<size_t>(n) : 0).starts_with("GET /metrics HTTP/1.1\r\n"));
            send(connection, text.data(), text.size(), MSG_NOSIGNAL);
            close(connection);
        });
        EXPECT_EQ(http_get(address, "/metrics"), body) << answer;
        server.join();
    }
    close(listening);
    EXPECT_EQ(http_get(address, "/metrics"), "");
    EXPECT_EQ(http_get("nowhere", "/metrics"), "");
}

}  // namespace
}  // namespace atlas::tool
