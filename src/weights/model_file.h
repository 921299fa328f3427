#pragma once

#include <sys/types.h>
#include <time.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"

namespace atlas::weights {

/**
 * The file that the host has mapped, opened once more to read from it: with O_DIRECT where a read shows that this works, else through the system's
 * cache, which is said once in the log. Immutable but for what the file system does; thread-safe.
 */
class ModelFile {
public:
    /**
     * The file behind `bytes` bytes from `memory` on, which stay mapped while this lives. Errors (unsupported): it is no mapping of one file, the file
     * cannot be opened under its name, another one has that name by now, or bytes read from it are not those of the mapping. Throws std::bad_alloc.
     */
    static Status open(const std::byte* memory, size_t bytes, std::unique_ptr<ModelFile>* out);
    ~ModelFile();
    ModelFile(const ModelFile&) = delete;
    ModelFile& operator=(const ModelFile&) = delete;

    bool maps(const std::byte* address, size_t bytes) const;
    /** Where a mapped byte lies in the file. */
    uint64_t offset_of(const std::byte* address) const;
    const std::byte* memory() const { return memory_; }
    size_t bytes() const { return bytes_; }

    int fd() const { return fd_; }
    bool is_direct() const { return direct_; }
    const std::string& path() const { return path_; }
    /** Of the file, when it was opened. */
    int64_t size() const { return size_; }
    timespec changed() const { return changed_; }

    /** Errors (io): the file has another size or was written to since it was opened, so that what is read may not belong together. */
    Status check_unchanged() const;
    /** Memory pages that lie in these mapped bytes as a whole are given back, and what the system's cache holds of them. Only wishes. */
    void drop(const std::byte* address, size_t bytes) const;
    /** What the system's cache holds of a range of the file is given back. */
    void drop_cached(uint64_t offset, size_t bytes) const;

private:
    ModelFile() = default;
    Status open_file();
    Status check_sample() const;

    const std::byte* memory_ = nullptr;
    size_t bytes_ = 0;
    uint64_t file_offset_ = 0;  // of memory_
    int fd_ = -1;
    bool direct_ = false;
    std::string path_;
    int64_t size_ = 0;
    timespec changed_{};
};

}  // namespace atlas::weights
