// What a disk gives to direct reads of a file, for benches to compare with: as `fio --ioengine=io_uring --direct=1 --fixedbufs` measures it, without any of
// Atlas's code. disk_bench FILE BYTES DEPTH SECONDS random|ordered: prints GB/s.
#include <fcntl.h>
#include <liburing.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

namespace {

[[noreturn]] void fail(const char* what, int error) {
    std::fprintf(stderr, "disk_bench: %s: %s\n", what, std::strerror(error));
    std::exit(1);
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 6) fail("FILE BYTES DEPTH SECONDS random|ordered", EINVAL);
    const size_t bytes = std::strtoull(arguments[2], nullptr, 10) / 4096 * 4096;
    const auto depth = static_cast<unsigned>(std::strtoul(arguments[3], nullptr, 10));
    const double seconds = std::strtod(arguments[4], nullptr);
    const bool random = std::strcmp(arguments[5], "random") == 0;
    const int fd = open(arguments[1], O_RDONLY | O_DIRECT);
    if (fd < 0) fail(arguments[1], errno);
    struct stat facts{};
    if (fstat(fd, &facts) != 0) fail(arguments[1], errno);
    if (bytes == 0 || depth == 0 || static_cast<uint64_t>(facts.st_size) < bytes) fail("sizes", EINVAL);
    const uint64_t places = static_cast<uint64_t>(facts.st_size) / bytes;

    void* memory = mmap(nullptr, bytes * depth, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("memory", errno);
    madvise(memory, bytes * depth, MADV_HUGEPAGE);
    std::memset(memory, 1, bytes * depth);
    io_uring ring{};
    if (const int error = io_uring_queue_init(depth, &ring, 0); error < 0) fail("io_uring", -error);
    const iovec all{memory, bytes * depth};
    const bool fixed = io_uring_register_buffers(&ring, &all, 1) == 0;

    std::mt19937_64 generator(1);
    uint64_t place = 0, done = 0;
    const auto begin = std::chrono::steady_clock::now();
    const auto passed = [&] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    };
    const auto start = [&](unsigned slot) {
        io_uring_sqe* entry = io_uring_get_sqe(&ring);
        auto* at = static_cast<char*>(memory) + slot * bytes;
        const uint64_t offset = (random ? generator() % places : place++ % places) * bytes;
        if (fixed) {
            io_uring_prep_read_fixed(entry, fd, at, static_cast<unsigned>(bytes), offset, 0);
        } else {
            io_uring_prep_read(entry, fd, at, static_cast<unsigned>(bytes), offset);
        }
        io_uring_sqe_set_data64(entry, slot);
    };
    for (unsigned slot = 0; slot < depth; ++slot) start(slot);
    double end = 0;
    unsigned under_way = depth;
    while (under_way > 0) {
        io_uring_submit_and_wait(&ring, 1);
        io_uring_cqe* entry = nullptr;
        while (io_uring_peek_cqe(&ring, &entry) == 0) {
            if (entry->res != static_cast<int>(bytes)) fail("read", entry->res < 0 ? -entry->res : EIO);
            const auto slot = static_cast<unsigned>(io_uring_cqe_get_data64(entry));
            io_uring_cqe_seen(&ring, entry);
            if (end == 0) done += bytes;
            if (end == 0 && passed() >= seconds) end = passed();
            end == 0 ? start(slot) : static_cast<void>(--under_way);
        }
    }
    std::printf("%.3f\n", static_cast<double>(done) / end / 1e9);
    io_uring_queue_exit(&ring);
    return 0;
}
