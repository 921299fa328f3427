#include "weights/model_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <new>

#include "base/log.h"
#include "io/block_io.h"
#include "io/errno_text.h"

namespace atlas::weights {
namespace {

constexpr size_t kSample = io::kIoAlignment;
constexpr int kSamples = 5;  // spread over the mapping

struct Free {
    void operator()(std::byte* memory) const { ::operator delete[](memory, std::align_val_t{io::kIoAlignment}); }
};
using Block = std::unique_ptr<std::byte[], Free>;

Block make_block(size_t bytes) {
    return Block(static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{io::kIoAlignment})));
}

/** What /proc says of a mapped range: the device and inode as it shows them, which need not be those of stat (btrfs). */
struct Mapping {
    uint64_t offset = 0;  // in the file
    std::string device;
    uint64_t inode = 0;
    std::string path;
};

/** The one file that `bytes` bytes from `memory` on map, whole and in order. */
bool find_mapping(const std::byte* memory, size_t bytes, Mapping* out) {
    const auto begin = reinterpret_cast<uintptr_t>(memory), end = begin + bytes;
    std::ifstream maps("/proc/self/maps");
    std::string line;
    uintptr_t known = begin;  // what lies before it has been found
    while (known < end && std::getline(maps, line)) {
        uintptr_t from = 0, to = 0;
        uint64_t offset = 0, inode = 0;
        char device[32] = "";
        int path = 0;
        if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " %*s %" SCNx64 " %31s %" SCNu64 " %n", &from, &to,
                        &offset, device, &inode, &path) < 5)
            continue;
        if (to <= known) continue;
        if (from > known || inode == 0) return false;
        const uint64_t here = offset + (known - from);
        if (known == begin) {
            *out = {here, device, inode, line.substr(static_cast<size_t>(path))};
        } else if (inode != out->inode || device != out->device || here != out->offset + (known - begin)) {
            return false;
        }
        known = to;
    }
    return known >= end;
}

/** Whether `fd` is the file of a mapping: mapped itself, it has to look the same. */
bool is_same_file(int fd, const Mapping& mapping) {
    void* memory = mmap(nullptr, kSample, PROT_READ, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) return false;
    Mapping own;
    const bool found = find_mapping(static_cast<const std::byte*>(memory), kSample, &own);
    munmap(memory, kSample);
    return found && own.inode == mapping.inode && own.device == mapping.device;
}

/** 0, or why nothing could be read. */
int try_read(int fd) {
    const Block block = make_block(kSample);
    ssize_t got = 0;
    do {
        got = pread(fd, block.get(), kSample, 0);
    } while (got < 0 && errno == EINTR);
    return got < 0 ? errno : 0;
}

}  // namespace

Status ModelFile::open(const std::byte* memory, size_t bytes, std::unique_ptr<ModelFile>* out) {
    std::unique_ptr<ModelFile> file(new ModelFile);
    file->memory_ = memory;
    file->bytes_ = bytes;
    Mapping mapping;
    if (!find_mapping(memory, bytes, &mapping) || !mapping.path.starts_with('/'))
        return Status::unsupported("weights that are no mapping of one file");
    file->file_offset_ = mapping.offset;
    file->path_ = mapping.path;
    if (Status status = file->open_file(); !status.is_ok()) return status;
    if (!is_same_file(file->fd_, mapping))
        return Status::unsupported("'" + file->path_ + "' is not the file that was mapped");
    if (Status status = file->check_sample(); !status.is_ok()) return status;
    struct stat facts{};
    if (fstat(file->fd_, &facts) != 0) return Status::unsupported("'" + file->path_ + "': " + io::errno_text(errno));
    file->size_ = facts.st_size;
    file->changed_ = facts.st_mtim;
    *out = std::move(file);
    return Status::ok();
}

ModelFile::~ModelFile() {
    if (fd_ >= 0) close(fd_);
}

Status ModelFile::open_file() {
    int direct_error = 0;
    for (const int direct : {O_DIRECT, 0}) {
        fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | direct);
        int error = fd_ >= 0 ? try_read(fd_) : errno;
        direct_ = direct != 0;
        if (error == 0) break;
        if (fd_ >= 0) close(fd_);
        fd_ = -1;
        if (!direct_) return Status::unsupported("'" + path_ + "': " + io::errno_text(error));
        direct_error = error;
    }
    if (!direct_)
        log().warn("'{}': no direct reads there: {}; weights come through the system's cache", path_,
                   io::errno_text(direct_error));
    return Status::ok();
}

Status ModelFile::check_sample() const {
    const Block block = make_block(2 * kSample);
    const size_t room = bytes_ > kSample ? bytes_ - kSample : 0;
    const size_t size = std::min(bytes_, kSample);
    for (int i = 0; i < kSamples; ++i) {
        const size_t at = room / (kSamples - 1) * static_cast<size_t>(i);
        const uint64_t offset = file_offset_ + at, begin = offset / kSample * kSample;
        ssize_t got = 0;
        do {
            got = pread(fd_, block.get(), 2 * kSample, static_cast<off_t>(begin));
        } while (got < 0 && errno == EINTR);
        if (got < 0) return Status::unsupported("'" + path_ + "': " + io::errno_text(errno));
        const size_t head = offset - begin;
        if (static_cast<size_t>(got) < head + size || std::memcmp(block.get() + head, memory_ + at, size) != 0)
            return Status::unsupported("'" + path_ + "' at " + std::to_string(offset) + " is not what was mapped");
    }
    return Status::ok();
}

bool ModelFile::maps(const std::byte* address, size_t bytes) const {
    return address >= memory_ && bytes <= bytes_ && address <= memory_ + (bytes_ - bytes);
}

uint64_t ModelFile::offset_of(const std::byte* address) const {
    return file_offset_ + static_cast<uint64_t>(address - memory_);
}

Status ModelFile::check_unchanged() const {
    struct stat facts{};
    if (fstat(fd_, &facts) != 0) return Status::io("'" + path_ + "': " + io::errno_text(errno));
    if (facts.st_size != size_)
        return Status::io("'" + path_ + "' has " + std::to_string(facts.st_size) + " bytes, and had " +
                          std::to_string(size_) + " when it was loaded: the model has to be loaded again");
    if (facts.st_mtim.tv_sec != changed_.tv_sec || facts.st_mtim.tv_nsec != changed_.tv_nsec)
        return Status::io("'" + path_ + "' was written to since it was loaded: the model has to be loaded again");
    return Status::ok();
}

void ModelFile::drop(const std::byte* address, size_t bytes) const {
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(address) + page - 1) / page * page;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(address) + bytes) / page * page;
    if (begin >= end) return;
    // NOLINTNEXTLINE(performance-no-int-to-ptr): an address rounded up.
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
    drop_cached(offset_of(address) + (begin - reinterpret_cast<uintptr_t>(address)), end - begin);
}

void ModelFile::drop_cached(uint64_t offset, size_t bytes) const {
    posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_DONTNEED);
}

}  // namespace atlas::weights
