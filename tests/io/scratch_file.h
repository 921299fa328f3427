#pragma once

#include <stdlib.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "io/block_io.h"

namespace atlas::io {

/** A file that is gone with the test. */
class ScratchFile {
public:
    ScratchFile() {
        char path[] = "/tmp/atlas-io-XXXXXX";
        fd_ = mkstemp(path);
        unlink(path);
    }
    ~ScratchFile() { close(fd_); }
    ScratchFile(const ScratchFile&) = delete;
    ScratchFile& operator=(const ScratchFile&) = delete;
    int fd() const { return fd_; }

private:
    int fd_ = -1;
};

/** Memory as O_DIRECT wants it, full of one value. */
class Block {
public:
    explicit Block(int value, size_t bytes = kIoAlignment)
        : data_(static_cast<std::byte*>(std::aligned_alloc(kIoAlignment, bytes))), bytes_(bytes) {
        if (!data_) throw std::bad_alloc();
        std::memset(data_.get(), value, bytes);
    }
    std::byte* data() const { return data_.get(); }
    std::byte operator[](size_t i) const { return data_.get()[i]; }
    bool operator==(const Block& other) const {
        return bytes_ == other.bytes_ && std::memcmp(data_.get(), other.data_.get(), bytes_) == 0;
    }
    IoRequest read(uint64_t offset) const { return {false, data_.get(), offset, bytes_}; }
    IoRequest write(uint64_t offset) const { return {true, data_.get(), offset, bytes_}; }

private:
    struct Free {
        void operator()(std::byte* memory) const { std::free(memory); }
    };
    std::unique_ptr<std::byte, Free> data_;
    size_t bytes_;
};

/** Runs requests to their end; how many were given back. */
inline size_t transfer(BlockIo& io, std::vector<IoRequest>& requests) {
    std::vector<IoRequest*> started, done;
    for (IoRequest& request : requests) started.push_back(&request);
    io.submit(started);
    for (size_t i = 0; done.size() < requests.size() && i < 1000; ++i) io.reap(true, &done);
    return done.size();
}

}  // namespace atlas::io
