#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/status.h"

namespace atlas::gguf {

/** A regular file that is read at any place. Not thread-safe. */
class FileInput {
public:
    FileInput() = default;
    ~FileInput();
    FileInput(const FileInput&) = delete;
    FileInput& operator=(const FileInput&) = delete;

    /** Folders, pipes and devices are refused, without waiting for them. Once. */
    Status open(const std::string& path);
    /** Of the whole file, when it was opened. */
    uint64_t bytes() const { return bytes_; }
    /** `n` bytes from `at`, all of them or an error: a file that became shorter is one. */
    Status read(uint64_t at, void* to, size_t n) const;

private:
    std::string path_;
    int file_ = -1;
    uint64_t bytes_ = 0;
};

}  // namespace atlas::gguf
