#include "disk_probe.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace atlas::tool {
namespace {

constexpr size_t kPart = size_t{1} << 20;
constexpr size_t kParts = 64;

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/** Moves the whole file; false with errno. */
template <typename Move>
bool move_all(Move move, double* rate) {
    const double begin = seconds();
    for (size_t i = 0; i < kParts; ++i) {
        const ssize_t n = move(static_cast<off_t>(i * kPart));
        if (n == static_cast<ssize_t>(kPart)) continue;
        if (n >= 0) errno = ENOSPC;
        return false;
    }
    *rate = static_cast<double>(kPart * kParts) / (seconds() - begin);
    return true;
}

}  // namespace

DiskProbe probe_disk(const std::string& folder) {
    DiskProbe probe;
    std::string path = folder + "/atlas-probe-XXXXXX";
    const auto failed = [&](const char* what) {
        probe.error = std::string(what) + " in " + folder + ": " + std::strerror(errno);
        return probe;
    };
    struct statvfs disk{};
    if (statvfs(folder.c_str(), &disk) == 0)
        probe.free_bytes = static_cast<unsigned long long>(disk.f_bavail) * disk.f_frsize;
    int file = mkstemp(path.data());
    if (file < 0) return failed("no file can be made");
    const int direct = open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
    unlink(path.c_str());
    probe.direct = direct >= 0;
    if (direct >= 0) {
        close(file);
        file = direct;
    }
    struct Free {
        void operator()(void* memory) const { std::free(memory); }
    };
    const std::unique_ptr<void, Free> memory(std::aligned_alloc(4096, kPart));
    if (!memory) {
        close(file);
        probe.error = "no memory";
        return probe;
    }
    std::memset(memory.get(), 0x5A, kPart);
    if (!move_all([&](off_t at) { return pwrite(file, memory.get(), kPart, at); }, &probe.write_rate)) {
        failed("writing failed");
    } else if (!move_all([&](off_t at) { return pread(file, memory.get(), kPart, at); }, &probe.read_rate)) {
        failed("reading failed");
    }
    close(file);
    return probe;
}

}  // namespace atlas::tool
