#include "gguf/file_output.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <utility>

#include "gguf/printable.h"

namespace atlas::gguf {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;

std::string folder_of(const std::string& path) {
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

/** Sixty-four bits that no other writer of this moment has. */
std::string random_name() {
    uint64_t number = 0;
    if (getrandom(&number, sizeof number, 0) != sizeof number) {
        timespec now{};
        clock_gettime(CLOCK_REALTIME, &now);
        number = static_cast<uint64_t>(now.tv_nsec) * 1000003 + static_cast<uint64_t>(getpid());
    }
    std::array<char, 40> text{};
    std::snprintf(text.data(), text.size(), ".atlas-%016llx.part", static_cast<unsigned long long>(number));
    return text.data();
}

/** Renames in one step; where the file system cannot refuse an existing target by itself, as close to it as can be. */
int rename_new(const char* from, const char* to) {
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) return 0;
    if (errno != EINVAL && errno != ENOSYS) return -1;
    struct stat info{};
    if (lstat(to, &info) == 0) {
        errno = EEXIST;
        return -1;
    }
    return std::rename(from, to);
}

}  // namespace

FileOutput::FileOutput(const std::string& path) : path_(path), folder_(folder_of(path)) {
    buffer_.reserve(kBufferBytes);
    if (path.empty() || path.back() == '/') {
        status_ = Status::invalid_argument("'" + printable(path, 1024) + "' is no name of a file");
        return;
    }
    for (int attempt = 0; attempt < 16 && file_ < 0; ++attempt) {
        // Short, so that it fits where a long name does; without the target's name, which a listing would complete.
        temporary_ = (folder_ == "/" ? "" : folder_) + "/" + random_name();
        file_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (file_ < 0 && errno != EEXIST) break;
    }
    if (file_ < 0) {
        fail("cannot be written");
        return;
    }
    exists_ = true;
}

FileOutput::~FileOutput() {
    if (file_ >= 0) close(file_);
    if (exists_) unlink(temporary_.c_str());
}

void FileOutput::fail(const char* what) {
    if (status_.is_ok()) status_ = Status::io(printable(path_, 1024) + ": " + what + ": " + std::strerror(errno));
}

void FileOutput::append(const void* data, size_t n) {
    const auto* from = static_cast<const char*>(data);
    position_ += n;
    while (n > 0) {
        const size_t part = std::min(n, kBufferBytes - buffer_.size());
        buffer_.insert(buffer_.end(), from, from + part);
        from += part;
        n -= part;
        if (buffer_.size() == kBufferBytes) flush();
    }
}

void FileOutput::pad(uint64_t alignment) {
    static constexpr std::array<char, 64> kZeros{};
    while (position_ % alignment != 0) append(kZeros.data(), std::min<uint64_t>(64, alignment - position_ % alignment));
}

void FileOutput::flush() {
    for (size_t done = 0; done < buffer_.size() && status_.is_ok();) {
        const ssize_t n = ::write(file_, buffer_.data() + done, buffer_.size() - done);
        if (n < 0 && errno != EINTR) fail("cannot be written");
        done += n > 0 ? static_cast<size_t>(n) : 0;
    }
    buffer_.clear();
}

Status FileOutput::finish() {
    flush();
    if (status_.is_ok() && fsync(file_) != 0) fail("cannot be written to the disk");
    // Some file systems tell only here that there was no room.
    if (const int file = std::exchange(file_, -1); file >= 0 && close(file) != 0) fail("cannot be written");
    return status_;
}

Status FileOutput::commit(bool replace) {
    if (!status_.is_ok()) return status_;
    const int renamed =
        replace ? std::rename(temporary_.c_str(), path_.c_str()) : rename_new(temporary_.c_str(), path_.c_str());
    if (renamed != 0) {
        fail("cannot be written");
        return status_;
    }
    exists_ = false;
    const int folder = open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    // EINVAL: a file system whose folders need no flushing.
    if (folder < 0 || (fsync(folder) != 0 && errno != EINVAL))
        fail("written, but its folder cannot be flushed to the disk");
    if (folder >= 0) close(folder);
    return status_;
}

}  // namespace atlas::gguf
