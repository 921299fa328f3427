#include "side_car/model_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <utility>

#include "gguf/fingerprint.h"
#include "gguf/printable.h"
#include "gguf/reader.h"

namespace atlas::side_car {
namespace {

bool is_gguf(const std::string& path) {
    struct stat info{};
    // Opening a pipe or a device could block or have effects.
    if (stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return false;
    char magic[4] = {};
    std::ifstream file(path, std::ios::binary);
    return file.read(magic, sizeof magic) && std::string(magic, 4) == "GGUF";
}

}  // namespace

std::vector<std::string> open_gguf_files() {
    std::set<std::string> paths;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
        // address perms offset dev inode, then the path, if any.
        if (const size_t at = line.find('/'); at != std::string::npos) paths.insert(line.substr(at));
    }
    std::error_code error;
    // A range-for would throw where a step fails.
    const std::filesystem::directory_iterator end;
    for (std::filesystem::directory_iterator entry("/proc/self/fd", error); !error && entry != end;
         entry.increment(error)) {
        std::error_code unreadable;
        const auto target = std::filesystem::read_symlink(entry->path(), unreadable);
        if (!unreadable && target.is_absolute()) paths.insert(target.string());
    }
    std::vector<std::string> found;
    for (const std::string& path : paths) {
        gguf::Metadata file;
        if (is_gguf(path) && !(gguf::read(path, &file).is_ok() && file.keys.contains("atlas.version")))
            found.push_back(path);
    }
    return found;
}

Status check_model(uint64_t fingerprint, const std::string& given) {
    const std::vector<std::string> files = given.empty() ? open_gguf_files() : std::vector<std::string>{given};
    std::string seen;
    for (const std::string& path : files) {
        uint64_t is = 0;
        const Status status = gguf::fingerprint_of(path, &is);
        if (status.is_ok() && is == fingerprint) return Status::ok();
        seen += (seen.empty() ? "" : ", ") +
                (status.is_ok() ? gguf::printable(path, 1024) + " is " + gguf::fingerprint_text(is) : status.message());
    }
    if (seen.empty()) seen = "no model is mapped or open in this process, name it with ATLAS_MODEL";
    return Status::invalid_argument("made for the model with fingerprint " + gguf::fingerprint_text(fingerprint) +
                                    "; " + seen);
}

}  // namespace atlas::side_car
