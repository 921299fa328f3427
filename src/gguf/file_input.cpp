#include "gguf/file_input.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "gguf/printable.h"

namespace atlas::gguf {

FileInput::~FileInput() {
    if (file_ >= 0) close(file_);
}

Status FileInput::open(const std::string& path) {
    path_ = printable(path, 1024);
    // Non-blocking: a pipe without a writer would hold up the host for ever.
    file_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat info{};
    if (file_ < 0 || fstat(file_, &info) != 0) return Status::io(path_ + ": " + std::strerror(errno));
    if (!S_ISREG(info.st_mode)) return Status::io(path_ + ": not a regular file");
    bytes_ = static_cast<uint64_t>(info.st_size);
    return Status::ok();
}

Status FileInput::read(uint64_t at, void* to, size_t n) const {
    auto* out = static_cast<char*>(to);
    while (n > 0) {
        // Linux moves at most 2 GiB at a time.
        const ssize_t got = pread(file_, out, std::min(n, size_t{1} << 30), static_cast<off_t>(at));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0)
            return Status::io(path_ + ": byte " + std::to_string(at) + " of " + std::to_string(bytes_) +
                              " cannot be read: " + (got < 0 ? std::strerror(errno) : "the file became shorter"));
        out += got;
        at += static_cast<uint64_t>(got);
        n -= static_cast<size_t>(got);
    }
    return Status::ok();
}

}  // namespace atlas::gguf
