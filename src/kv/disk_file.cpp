#include "kv/disk_file.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <new>

#include "base/log.h"
#include "io/block_io.h"
#include "io/errno_text.h"

namespace atlas::kv {
namespace {

constexpr int kMostNames = 1000;

/** 0, or the errno of a write as the tier will make them. */
int try_write(int fd) {
    struct Free {
        void operator()(std::byte* memory) const { ::operator delete[](memory, std::align_val_t{io::kIoAlignment}); }
    };
    const std::unique_ptr<std::byte[], Free> page(
        static_cast<std::byte*>(::operator new[](io::kIoAlignment, std::align_val_t{io::kIoAlignment})));
    std::memset(page.get(), 0x5A, io::kIoAlignment);
    ssize_t written = 0;
    do {
        written = pwrite(fd, page.get(), io::kIoAlignment, 0);
    } while (written < 0 && errno == EINTR);
    if (written < 0) return errno;
    return written == static_cast<ssize_t>(io::kIoAlignment) ? 0 : EIO;
}

}  // namespace

Status DiskFile::open(const std::string& folder, std::unique_ptr<DiskFile>* out) {
    std::unique_ptr<DiskFile> file(new DiskFile);
    const auto failed = [&](int error) {
        return Status::io("ATLAS_KV_DISK=" + folder + ": '" + file->path_ + "': " + io::errno_text(error) +
                          "; a folder that can be written to is needed");
    };
    int direct_error = 0;
    for (const int direct : {O_DIRECT, 0}) {
        int error = EEXIST;
        for (int i = 0; i < kMostNames && error == EEXIST; ++i) {
            file->path_ = folder + "/atlas-kv-" + std::to_string(getpid()) + "-" + std::to_string(i);
            // Whoever else is in this folder, another process or a second library, has names of its own.
            file->fd_ = ::open(file->path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | direct, 0600);
            error = file->fd_ >= 0 ? 0 : errno;
        }
        if (error == 0) {
            unlink(file->path_.c_str());
            error = try_write(file->fd_);
            file->direct_ = direct != 0;
            if (error == 0) break;
            close(file->fd_);
            file->fd_ = -1;
        } else if (direct != 0 && error == EINVAL) {
            // A file system that refuses O_DIRECT may have made the file.
            unlink(file->path_.c_str());
        }
        if (direct == 0 || error != EINVAL) return failed(error);
        direct_error = error;
    }
    if (!file->direct_)
        log().warn("ATLAS_KV_DISK={}: no direct transfers there: {}; going through the system's cache", folder,
                   io::errno_text(direct_error));
    *out = std::move(file);
    return Status::ok();
}

DiskFile::~DiskFile() {
    if (fd_ >= 0) close(fd_);
}

uint64_t DiskFile::free_bytes() const {
    struct statvfs facts{};
    if (fstatvfs(fd_, &facts) != 0) return 0;
    return static_cast<uint64_t>(facts.f_bavail) * facts.f_frsize;
}

}  // namespace atlas::kv
