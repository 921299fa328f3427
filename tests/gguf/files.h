#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace atlas::test {

/** A test with a folder of its own. */
class FilesTest : public testing::Test {
protected:
    FilesTest() : folder_(std::filesystem::temp_directory_path() / ("atlas-files-" + std::to_string(getpid()))) {
        std::filesystem::remove_all(folder_);
        std::filesystem::create_directories(folder_);
    }
    ~FilesTest() override { std::filesystem::remove_all(folder_); }

    std::string path(const std::string& name) const { return (folder_ / name).string(); }

    static std::string bytes_of(const std::string& file) {
        std::ifstream in(file, std::ios::binary);
        return {std::istreambuf_iterator<char>(in), {}};
    }
    /** A file of these bytes; `size`: continued by a hole, so that it says it is as large. */
    std::string with_bytes(const std::string& bytes, uint64_t size = 0) {
        // Truncating a file makes some file systems wait for the disk.
        std::filesystem::remove(path("changed.gguf"));
        std::ofstream(path("changed.gguf"), std::ios::binary) << bytes;
        if (size > 0) std::filesystem::resize_file(path("changed.gguf"), size);
        return path("changed.gguf");
    }
    size_t files() const {
        return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder_), {}));
    }

    std::filesystem::path folder_;
};

/** While it lives, permissions hold for this process even if it is root's. */
class AsNobody {
public:
    AsNobody() {
        if (was_ == 0 && seteuid(65534) != 0) ADD_FAILURE() << "seteuid";
    }
    ~AsNobody() {
        if (was_ == 0 && seteuid(0) != 0) ADD_FAILURE() << "seteuid";
    }
    AsNobody(const AsNobody&) = delete;
    AsNobody& operator=(const AsNobody&) = delete;

private:
    const uid_t was_ = geteuid();
};

/** The bytes of a number, little endian. */
inline std::string number(uint64_t value, size_t bytes) {
    std::string text(bytes, '\0');
    std::memcpy(text.data(), &value, std::min(bytes, sizeof value));
    return text;
}
inline std::string header(uint64_t tensors, uint64_t keys, uint64_t version = 3) {
    return "GGUF" + number(version, 4) + number(tensors, 8) + number(keys, 8);
}
inline std::string text(const std::string& from) { return number(from.size(), 8) + from; }

}  // namespace atlas::test
