#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"

namespace atlas::kv {

/**
 * A file of this process alone in a folder, without a name from the start: whatever ends the process leaves nothing. Opened with O_DIRECT where a write
 * shows that this works, else through the system's cache, which is said once in the log.
 */
class DiskFile {
public:
    /** Errors: `folder` is none or cannot be written. Throws std::bad_alloc. */
    static Status open(const std::string& folder, std::unique_ptr<DiskFile>* out);
    ~DiskFile();
    DiskFile(const DiskFile&) = delete;
    DiskFile& operator=(const DiskFile&) = delete;

    int fd() const { return fd_; }
    /** The name that it had, for messages. */
    const std::string& path() const { return path_; }
    bool is_direct() const { return direct_; }
    /** Bytes that the file system has left. */
    uint64_t free_bytes() const;

private:
    DiskFile() = default;
    int fd_ = -1;
    bool direct_ = false;
    std::string path_;
};

}  // namespace atlas::kv
