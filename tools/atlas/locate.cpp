#include "locate.h"

#include <cstdlib>
#include <filesystem>
#include <vector>

namespace atlas::tool {

namespace fs = std::filesystem;

std::string locate_library(std::string* searched) {
    constexpr const char* kName = "libggml-atlas.so";
    if (const char* given = std::getenv("ATLAS_LIBRARY"); given && *given) {
        *searched = std::string(given) + " (from ATLAS_LIBRARY)";
        std::error_code error;
        return fs::is_regular_file(given, error) ? fs::absolute(given).string() : std::string();
    }
    std::error_code error;
    const fs::path here = fs::read_symlink("/proc/self/exe", error).parent_path();
    std::vector<fs::path> places = {here, here / "../lib/atlas", here / "../lib", here / "../../src/host"};
    // Debian's multi-architecture folders: one level below lib.
    for (const auto& entry : fs::directory_iterator(here / "../lib", error)) {
        if (entry.path().filename().string().find("-linux-") != std::string::npos)
            places.push_back(entry.path() / "atlas");
    }
    for (const fs::path& place : places) {
        const fs::path candidate = (place / kName).lexically_normal();
        if (fs::is_regular_file(candidate, error)) return candidate.string();
        *searched += (searched->empty() ? "" : ", ") + candidate.string();
    }
    return {};
}

}  // namespace atlas::tool
