#pragma once

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>

namespace atlas::io {

/** While one lives, files of this program are not opened with O_DIRECT: as on file systems that lack it. Include this in one file of a program. */
class NoDirect {
public:
    NoDirect() { exists() = true; }
    ~NoDirect() { exists() = false; }
    NoDirect(const NoDirect&) = delete;
    NoDirect& operator=(const NoDirect&) = delete;
    static bool& exists() {
        static bool it = false;
        return it;
    }
};

}  // namespace atlas::io

// In the place of libc's, under another name here: headers may define open() themselves.
extern "C" int atlas_test_open(const char* path, int flags, ...) __asm__("open");
extern "C" int atlas_test_open(const char* path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    const int mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(more, int) : 0;
    va_end(more);
    if (atlas::io::NoDirect::exists() && (flags & O_DIRECT) != 0) return errno = EINVAL, -1;
    return static_cast<int>(syscall(SYS_openat, AT_FDCWD, path, flags, mode));
}
