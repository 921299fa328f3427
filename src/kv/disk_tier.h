#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "io/block_io.h"
#include "io/disk_queue.h"
#include "kv/disk_file.h"
#include "kv/unit_space.h"

namespace atlas::kv {

struct DiskOptions {
    std::string folder;
    uint64_t limit = 0;  ///< of the file in bytes, 0: none
    std::string faults;  ///< of ATLAS_TEST_FAULTS (io/faulty_io.h)
    bool uring = true;   ///< false: one transfer after the other, as where there is no io_uring
    std::shared_ptr<io::DiskQueue> queue = nullptr;  ///< with what others have under way on the disk; nullptr: alone
};

/** What is written at once and read back whole: where it lies, and the checksum of what was written. */
struct DiskUnit {
    static constexpr uint64_t kNowhere = ~uint64_t{0};
    uint64_t offset = kNowhere;
    uint64_t checksum = 0;
    bool exists() const { return offset != kNowhere; }
};

/** A transfer of one unit. Whoever asks for it keeps it until it is done. */
struct UnitTransfer {
    DiskUnit unit;
    std::byte* memory = nullptr;  ///< aligned to io::kIoAlignment
    size_t bytes = 0;             ///< a multiple of io::kIoAlignment
    Status status;                ///< afterwards
    void* owner = nullptr;        ///< the caller's

private:
    friend class DiskTier;
    io::IoRequest request;
    size_t done = 0;  // bytes
    bool retried = false;
    bool pending = false;  // begun, and not done
    bool ahead = false;    // nobody knows yet whether it is wanted: what fails is neither tried again nor counted
};

struct DiskStats {
    uint64_t reads = 0, read_bytes = 0, writes = 0, written_bytes = 0;  ///< of units
    uint64_t read_errors = 0, write_errors = 0;                         ///< that callers were told
    uint64_t corrupt = 0;                                               ///< reads whose checksum was wrong
    uint64_t retries = 0;                                               ///< reads that were tried again
    double wait_seconds = 0;  ///< that callers of read() and wait_for_writes() spent
    uint64_t in_use = 0, file_bytes = 0;
};

/**
 * Units of KV in a file: written once, read back whole, each with a checksum that takes its place in the file in. A read gives what was written, or an error:
 * one that went wrong is tried once more. allocate() to retire(), and stats(), may be called from any thread; reads and writes by one thread at a time.
 */
class DiskTier {
public:
    /** Errors: the folder, the faults' text. Throws std::bad_alloc. */
    static Status open(const DiskOptions& options, std::unique_ptr<DiskTier>* out);
    ~DiskTier();

    /** A place for `bytes` bytes, a multiple of io::kIoAlignment. Errors: kOutOfMemory, naming the limit; kIo, naming file, offset and errno. Throws std::bad_alloc. */
    Status allocate(size_t bytes, DiskUnit* out);
    /** Gives it back. */
    void release(const DiskUnit& unit, size_t bytes) noexcept { space_.release(unit.offset, bytes); }
    /** Gives it up: nothing is written there again. */
    void retire(const DiskUnit& unit, size_t bytes) noexcept;

    /** What a unit's checksum is to be. */
    static uint64_t checksum(const std::byte* memory, size_t bytes, uint64_t offset);

    /** Reads all at once and waits; each has its status: kIo with file, offset and errno, or kCorrupt. Throws std::bad_alloc, with nothing under way. */
    void read(std::span<UnitTransfer* const> transfers);
    /** The first half of read(). */
    void begin_reads(std::span<UnitTransfer* const> transfers) { begin_reads(transfers, false); }
    /** Starts reading what may be wanted later. What fails is neither tried again nor counted: a unit may have been given back meanwhile. */
    void begin_ahead(std::span<UnitTransfer* const> transfers) { begin_reads(transfers, true); }
    /** The second half of both: waits for them. Throws std::bad_alloc. */
    void finish_reads(std::span<UnitTransfer* const> transfers);
    /** Starts writing memory whose checksum the unit has. The memory stays; what it holds while it is written may change, and then must not be relied upon. */
    void begin_write(UnitTransfer* transfer);
    /** Appends writes that are done, each with its status. `wait`: until one is, if any is under way. Throws std::bad_alloc. */
    void finish_writes(bool wait, std::vector<UnitTransfer*>* done);
    size_t writes_under_way() const { return writing_; }

    /** Bytes that may still be written: of the limit and of the file system. */
    uint64_t room() const;
    DiskStats stats() const;
    const std::string& path() const { return file_->path(); }
    bool is_direct() const { return file_->is_direct(); }

private:
    DiskTier(std::unique_ptr<DiskFile> file, std::unique_ptr<io::BlockIo> io, uint64_t limit);
    void submit(UnitTransfer* transfer);
    void begin_reads(std::span<UnitTransfer* const> transfers, bool ahead);
    /** Takes what is done; whether `transfer` is, with its status, or goes on. */
    bool advance(UnitTransfer* transfer);
    void take_done(bool wait);
    Status failure(const UnitTransfer& transfer, const std::string& what) const;

    const std::unique_ptr<DiskFile> file_;
    const std::unique_ptr<io::BlockIo> io_;  // ends before the file
    UnitSpace space_;
    size_t writing_ = 0;
    std::vector<UnitTransfer*> written_;
    std::vector<io::IoRequest*> reaped_;
    mutable std::mutex stats_mutex_;  // guards stats_
    DiskStats stats_;
};

}  // namespace atlas::kv
