#include "doctor.h"

#include <ggml.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "child.h"
#include "disk_probe.h"
#include "info.h"
#include "model_facts.h"

namespace atlas::tool {
namespace {

enum class Verdict { kGood, kMind, kBad };

/** The lines, and whether all is well. */
class Report {
public:
    void add(Verdict verdict, const char* what, const std::string& found, const std::string& advice = {}) {
        constexpr std::array kWords{"ok  ", "mind", "BAD "};
        std::printf("%s  %-9s %s\n", kWords[static_cast<size_t>(verdict)], what, found.c_str());
        if (!advice.empty()) std::printf("                → %s\n", advice.c_str());
        bad_ = bad_ || verdict == Verdict::kBad;
        std::fflush(stdout);
    }
    int status() const { return bad_ ? 1 : 0; }

private:
    bool bad_ = false;
};

std::string first_line_with(const std::string& text, const std::string& word) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        if (line.find(word) != std::string::npos) return line;
    }
    return {};
}

std::string trimmed(std::string text) {
    const size_t begin = text.find_first_not_of(" \t");
    return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

/** The file of a shared library that a program would load; "" if none. */
std::string library_of(const std::string& program, const std::string& name) {
    const ChildResult traced =
        run_program({program}, {{"LD_TRACE_LOADED_OBJECTS", "1"}, {"GGML_BACKEND_PATH", nullptr}}, false, 10);
    const std::string line = trimmed(first_line_with(traced.output, name));
    const size_t arrow = line.find("=> ");
    return arrow == std::string::npos ? "" : line.substr(arrow + 3, line.find(" (", arrow) - arrow - 3);
}

/** What llama.cpp's programs are, whose ggml they use, and whether the device is there when one of them starts. */
void look_at_host(const std::string& library, Report* report) {
    const std::string server = find_program("llama-server");
    const std::string program = server.empty() ? find_program("llama-cli") : server;
    if (program.empty()) {
        report->add(
            Verdict::kBad, "llama.cpp", "neither llama-server nor llama-cli is in PATH",
            "install llama.cpp (Debian: llama.cpp-tools), built with shared libraries, and put its folder into PATH");
        return;
    }
    const ChildResult version = run_program({program, "--version"}, {{"GGML_BACKEND_PATH", nullptr}}, true, 20);
    const std::string line = trimmed(first_line_with(version.output, "version:"));
    report->add(version.status == 0 ? Verdict::kGood : Verdict::kBad, "llama.cpp",
                program + (line.empty() ? "" : ", " + line),
                version.status == 0 ? "" : "it does not start: " + program + " --version");
    const std::string base = library_of(program, "libggml-base.so");
    if (base.empty()) {
        report->add(Verdict::kBad, "ggml", program + " has ggml within itself, or is a script",
                    "a plug-in needs ggml as shared libraries: build llama.cpp with -DBUILD_SHARED_LIBS=ON "
                    "-DGGML_BACKEND_DL=ON, or install the package");
        return;
    }
    std::error_code error;
    const std::string file = std::filesystem::canonical(base, error).string();
    report->add(Verdict::kGood, "ggml", file.empty() ? base : file);
    if (library.empty()) return;
    const ChildResult devices =
        run_program({program, "--list-devices"}, {{"GGML_BACKEND_PATH", library.c_str()}}, true, 60);
    const bool there = devices.output.find("ATLAS") != std::string::npos && devices.status == 0;
    const std::string said = trimmed(first_line_with(devices.output, "atlas: [error]"));
    report->add(
        there ? Verdict::kGood : Verdict::kBad, "together",
        there ? std::filesystem::path(program).filename().string() + " sees Atlas's device"
              : "with GGML_BACKEND_PATH set the program has no device of Atlas's" + (said.empty() ? "" : ": " + said),
        there ? ""
              : "this ggml and Atlas do not go together, or a setting is not allowed: the line says which; "
                "ATLAS_DEBUG=1 says more");
}

void look_at_library(const std::string& library, const std::string& searched, Report* report) {
    if (library.empty()) {
        report->add(Verdict::kBad, "library", "libggml-atlas.so is not there; looked for " + searched,
                    "install Atlas as a whole, or name the library: ATLAS_LIBRARY=/path/to/libggml-atlas.so");
        return;
    }
    const auto facts = plugin_facts(library);
    if (!facts["loads"].get<bool>()) {
        report->add(
            Verdict::kBad, "library",
            library + " does not load" + (facts.contains("error") ? ": " + facts["error"].get<std::string>() : ""),
            "its own line above says why; a file that is damaged or of another system is replaced by installing Atlas "
            "again");
        return;
    }
    report->add(Verdict::kGood, "library", library + ", in ggml " + ggml_version());
    const std::string kernels = facts["kernels"].is_string() ? facts["kernels"].get<std::string>() : "unknown";
    const bool slow = kernels == "reference";
    report->add(
        slow ? Verdict::kMind : Verdict::kGood, "kernels", kernels,
        slow ? "this CPU has none of AVX2, AVX-512 and NEON, or ATLAS_KERNEL forces it: everything is slow" : "");
    if (facts["cuda"].is_string()) report->add(Verdict::kGood, "CUDA", facts["cuda"].get<std::string>());
    const char* path = std::getenv("GGML_BACKEND_PATH");
    std::error_code error;
    if (path && *path && !std::filesystem::equivalent(path, library, error))
        report->add(Verdict::kMind, "variable", std::string("GGML_BACKEND_PATH=") + path + " names another file",
                    "programs that are started without `atlas` load that one: unset it, or set it to " + library);
}

void look_at_cpu(Report* report) {
    std::ifstream file("/proc/cpuinfo");
    std::string model, found;
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with("model name")) model = trimmed(line.substr(line.find(':') + 1));
        if (!line.starts_with("flags") && !line.starts_with("Features")) continue;
        line += ' ';
        for (const char* feature : {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp"}) {
            if (line.find(" " + std::string(feature) + " ") != std::string::npos)
                found += (found.empty() ? "" : " ") + std::string(feature);
        }
        break;
    }
    report->add(Verdict::kGood, "CPU",
                (model.empty() ? "" : model + ": ") + (found.empty() ? "no vector extension that Atlas uses" : found));
}

void look_at_memory(Report* report) {
    const uint64_t bytes = free_memory();
    constexpr uint64_t kLittle = uint64_t{1} << 30;
    report->add(bytes > 0 && bytes < kLittle ? Verdict::kMind : Verdict::kGood, "memory", size_text(bytes) + " free",
                bytes > 0 && bytes < kLittle
                    ? "bound the KV cache (--atlas-kv-ram), and let the rest go to a disk (--atlas-kv-disk)"
                    : "");
}

void look_at_disk(const std::string& asked, Report* report) {
    const char* variable = std::getenv("ATLAS_KV_DISK");
    const std::string folder = !asked.empty() ? asked : variable ? variable : "";
    if (folder.empty()) {
        report->add(Verdict::kGood, "disk", "not used; `atlas doctor --disk FOLDER` tries one for the KV cache");
        return;
    }
    const DiskProbe probe = probe_disk(folder);
    if (!probe.error.empty()) {
        report->add(Verdict::kBad, "disk", probe.error, "ATLAS_KV_DISK needs a folder that can be written, with room");
        return;
    }
    char rates[96];
    std::snprintf(rates, sizeof rates, "writes %.0f MB/s, reads %.0f MB/s, ", probe.write_rate * 1e-6,
                  probe.read_rate * 1e-6);
    const bool slow = probe.read_rate < 200e6;
    report->add(probe.direct && !slow ? Verdict::kGood : Verdict::kMind, "disk",
                folder + ": " + rates + size_text(probe.free_bytes) + " free",
                !probe.direct
                    ? "it takes no direct transfers (a file system in memory?): pages would take memory there as well"
                : slow ? "a KV cache on it is slow; an SSD reads several times as fast"
                       : "");
}

}  // namespace

int run_doctor(const std::string& library, const std::string& searched, const std::string& disk) {
    Report report;
    look_at_library(library, searched, &report);
    look_at_host(library, &report);
    look_at_cpu(&report);
    look_at_memory(&report);
    look_at_disk(disk, &report);
    std::printf("%s\n",
                report.status() == 0 ? "Atlas works here." : "Atlas does not work here; the lines marked BAD say why.");
    return report.status();
}

}  // namespace atlas::tool
