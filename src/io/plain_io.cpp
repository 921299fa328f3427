#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>

#include "io/block_io.h"
#include "io/file_growth.h"

namespace atlas::io {
namespace {

class PlainIo final : public BlockIo {
public:
    explicit PlainIo(int fd) : fd_(fd) {}

    void submit(std::span<IoRequest* const> requests) override {
        done_.reserve(done_.size() + requests.size());
        for (IoRequest* request : requests) {
            const auto offset = static_cast<off_t>(request->offset);
            const int fd = request->fd >= 0 ? request->fd : fd_;
            do {
                request->result = request->is_write ? pwrite(fd, request->memory, request->bytes, offset)
                                                    : pread(fd, request->memory, request->bytes, offset);
            } while (request->result < 0 && errno == EINTR);
            if (request->result < 0) request->result = -errno;
            done_.push_back(request);
        }
    }

    void reap(bool /*wait*/, std::vector<IoRequest*>* out) override {
        out->insert(out->end(), done_.begin(), done_.end());
        done_.clear();
    }

    int grow(uint64_t from, uint64_t bytes) override { return grow_file(fd_, from, bytes); }

private:
    const int fd_;
    std::vector<IoRequest*> done_;
};

}  // namespace

int grow_file(int fd, uint64_t from, uint64_t bytes) {
    rlimit limit{};
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && from + bytes > limit.rlim_cur)
        return EFBIG;
    while (fallocate(fd, 0, static_cast<off_t>(from), static_cast<off_t>(bytes)) != 0) {
        if (errno == EINTR) continue;
        // Where nothing can be set aside, a full disk shows itself at a write.
        if (errno == EOPNOTSUPP) return ftruncate(fd, static_cast<off_t>(from + bytes)) == 0 ? 0 : errno;
        return errno;
    }
    return 0;
}

std::unique_ptr<BlockIo> make_plain_io(int fd) { return std::make_unique<PlainIo>(fd); }

}  // namespace atlas::io
