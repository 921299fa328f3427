#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace atlas::gguf {

/**
 * A new file beside `path` that becomes `path` in one step, or goes away with this object. Not thread-safe. The first error stays, and everything
 * after it does nothing; finish() and commit() tell it.
 */
class FileOutput {
public:
    explicit FileOutput(const std::string& path);
    ~FileOutput();
    FileOutput(const FileOutput&) = delete;
    FileOutput& operator=(const FileOutput&) = delete;

    /** Where the bytes are until commit(). */
    const std::string& temporary() const { return temporary_; }
    uint64_t position() const { return position_; }

    void append(const void* data, size_t n);
    /** Zeros up to a multiple of `alignment`. */
    void pad(uint64_t alignment);
    /** Everything is on the disk, and the file is closed. */
    Status finish();
    /** After finish(): the file gets its name, and the folder is on the disk. `replace`: whether another file may lose it. */
    Status commit(bool replace);

private:
    void flush();
    void fail(const char* what);

    const std::string path_, folder_;
    std::string temporary_;
    int file_ = -1;
    bool exists_ = false;  // the temporary one
    uint64_t position_ = 0;
    std::vector<char> buffer_;
    Status status_;
};

}  // namespace atlas::gguf
