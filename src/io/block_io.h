#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace atlas::io {

/** Who waits for a transfer (io/disk_queue.h). */
enum class Urgency : uint8_t {
    kNow,    ///< a thread that computes
    kSoon,   ///< nobody yet, and it will be needed for certain
    kLater,  ///< nobody: writes behind, guesses
};
inline constexpr size_t kUrgencies = 3;

/** One transfer between memory and the file. The caller keeps it, and its memory, until reap() has given it back. */
struct IoRequest {
    bool is_write = false;
    std::byte* memory = nullptr;  ///< read() fills it, a write does not change it
    uint64_t offset = 0;          ///< of the file; with memory and bytes a multiple of kIoAlignment
    size_t bytes = 0;
    void* owner = nullptr;  ///< the caller's
    int64_t result = 0;     ///< afterwards: bytes transferred, which may be fewer than asked for, or −errno
    int fd = -1;            ///< another file than the one that the layer was made for; −1: that one
    Urgency urgency = Urgency::kNow;  ///< unchanged while it is under way
};

/** What O_DIRECT wants of addresses, offsets and sizes at most on usual devices. */
inline constexpr size_t kIoAlignment = 4096;

/** The file layer under whatever keeps bytes in files: transfers and nothing else. Used by one thread at a time. */
class BlockIo {
public:
    BlockIo() = default;
    virtual ~BlockIo() = default;
    BlockIo(const BlockIo&) = delete;
    BlockIo& operator=(const BlockIo&) = delete;

    /** Starts transfers. Throws std::bad_alloc, with some of them perhaps started. */
    virtual void submit(std::span<IoRequest* const> requests) = 0;
    /** Appends requests that are done to `out`. With `wait`, at least one if any is under way. Throws std::bad_alloc. */
    virtual void reap(bool wait, std::vector<IoRequest*>* out) = 0;
    /** Makes bytes from … from + bytes − 1 of the file exist. 0, or an errno. */
    virtual int grow(uint64_t from, uint64_t bytes) = 0;
};

/** Many at a time through io_uring; nullptr where the system or this build has none. `fd` outlives it; −1 where every request names its file. Throws std::bad_alloc. */
std::unique_ptr<BlockIo> make_uring_io(int fd);
/** One after the other by pread and pwrite, each done when submit() returns. Throws std::bad_alloc. */
std::unique_ptr<BlockIo> make_plain_io(int fd);

}  // namespace atlas::io
