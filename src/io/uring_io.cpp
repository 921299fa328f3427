#include <liburing.h>

#include <cerrno>
#include <deque>

#include "io/block_io.h"
#include "io/file_growth.h"

namespace atlas::io {
namespace {

// What one device serves at a time; more wait here. NVMe drives are at their peak at some dozens of 16 KiB.
constexpr unsigned kDepth = 128;

class UringIo final : public BlockIo {
public:
    explicit UringIo(int fd) : fd_(fd) {}
    ~UringIo() override {
        if (is_open_) io_uring_queue_exit(&ring_);
    }

    bool open() {
        is_open_ = io_uring_queue_init(kDepth, &ring_, 0) == 0;
        return is_open_;
    }

    void submit(std::span<IoRequest* const> requests) override {
        waiting_.insert(waiting_.end(), requests.begin(), requests.end());
        start();
    }

    void reap(bool wait, std::vector<IoRequest*>* out) override {
        // Room first: a completion that was taken from the ring must not be lost.
        out->reserve(out->size() + failed_.size() + under_way_ + waiting_.size());
        out->insert(out->end(), failed_.begin(), failed_.end());
        wait = wait && failed_.empty();
        failed_.clear();
        start();
        if (under_way_ == 0) return;
        io_uring_cqe* entry = nullptr;
        if (wait) {
            while (io_uring_wait_cqe(&ring_, &entry) == -EINTR) {}
        }
        while (io_uring_peek_cqe(&ring_, &entry) == 0) {
            auto* request = static_cast<IoRequest*>(io_uring_cqe_get_data(entry));
            const int result = entry->res;
            io_uring_cqe_seen(&ring_, entry);
            --under_way_;
            if (result == -EINTR || result == -EAGAIN) {
                waiting_.push_back(request);
                continue;
            }
            request->result = result;
            out->push_back(request);
        }
        start();
    }

    int grow(uint64_t from, uint64_t bytes) override { return grow_file(fd_, from, bytes); }

private:
    /** Hands waiting requests to the kernel, as many as may be under way. */
    void start() {
        unsigned queued = 0;
        while (!waiting_.empty() && under_way_ < kDepth) {
            io_uring_sqe* entry = io_uring_get_sqe(&ring_);
            if (!entry) break;
            IoRequest* request = waiting_.front();
            waiting_.pop_front();
            const auto bytes = static_cast<unsigned>(request->bytes);
            const int fd = request->fd >= 0 ? request->fd : fd_;
            if (request->is_write) {
                io_uring_prep_write(entry, fd, request->memory, bytes, request->offset);
            } else {
                io_uring_prep_read(entry, fd, request->memory, bytes, request->offset);
            }
            io_uring_sqe_set_data(entry, request);
            ++under_way_;
            ++queued;
        }
        // What the kernel cannot take now (-EAGAIN, -EBUSY) stays in the ring and is handed over by the next call.
        if (queued > 0 || io_uring_sq_ready(&ring_) > 0) io_uring_submit(&ring_);
    }

    const int fd_;
    io_uring ring_{};
    bool is_open_ = false;
    std::deque<IoRequest*> waiting_;
    std::vector<IoRequest*> failed_;
    unsigned under_way_ = 0;
};

}  // namespace

std::unique_ptr<BlockIo> make_uring_io(int fd) {
    auto io = std::make_unique<UringIo>(fd);
    if (!io->open()) return nullptr;
    return io;
}

}  // namespace atlas::io
