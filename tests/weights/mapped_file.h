#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

namespace atlas::weights::test {

/** A file of known bytes, mapped as a host maps a model. */
class MappedFile {
public:
    /** In /var/tmp, as /tmp may be memory. */
    explicit MappedFile(size_t bytes, uint32_t seed = 1) : content_(bytes) {
        char name[] = "/var/tmp/atlas-weights-XXXXXX";
        fd_ = mkstemp(name);
        path_ = name;
        for (std::byte& byte : content_) {
            seed = seed * 1664525u + 1013904223u;
            byte = static_cast<std::byte>(seed >> 24);
        }
        write(0, content_);
        void* memory = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd_, 0);
        EXPECT_NE(memory, MAP_FAILED);
        memory_ = static_cast<const std::byte*>(memory);
    }
    ~MappedFile() {
        munmap(const_cast<std::byte*>(memory_), content_.size());
        close(fd_);
        unlink(path_.c_str());
    }
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    const std::byte* memory() const { return memory_; }
    size_t bytes() const { return content_.size(); }
    const std::vector<std::byte>& content() const { return content_; }
    const std::string& path() const { return path_; }
    int fd() const { return fd_; }

    void write(size_t at, const std::vector<std::byte>& bytes) const {
        EXPECT_EQ(pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(at)), static_cast<ssize_t>(bytes.size()));
    }
    void truncate(size_t bytes) const { EXPECT_EQ(ftruncate(fd_, static_cast<off_t>(bytes)), 0); }

private:
    std::vector<std::byte> content_;
    int fd_ = -1;
    std::string path_;
    const std::byte* memory_ = nullptr;
};

}  // namespace atlas::weights::test
