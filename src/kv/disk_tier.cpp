#include "kv/disk_tier.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "base/log.h"
#include "io/errno_text.h"
#include "io/faulty_io.h"

namespace atlas::kv {
namespace {

/** Seconds from its beginning to its end are added to a number. */
class Waiting {
public:
    Waiting(std::mutex& mutex, double* seconds) : mutex_(mutex), seconds_(seconds) {}
    ~Waiting() {
        const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin_;
        const std::lock_guard lock(mutex_);
        *seconds_ += passed.count();
    }

private:
    std::mutex& mutex_;
    double* const seconds_;
    const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace

Status DiskTier::open(const DiskOptions& options, std::unique_ptr<DiskTier>* out) {
    io::Faults faults;
    if (Status status = io::parse_faults(options.faults, &faults); !status.is_ok()) return status;
    std::unique_ptr<DiskFile> file;
    if (Status status = DiskFile::open(options.folder, &file); !status.is_ok()) return status;
    std::unique_ptr<io::BlockIo> io = options.uring ? io::make_uring_io(file->fd()) : nullptr;
    if (!io) {
        if (options.uring)
            log().warn("ATLAS_KV_DISK={}: the system has no io_uring: one read after the other", options.folder);
        io = io::make_plain_io(file->fd());
    }
    if (!options.faults.empty()) io = io::make_faulty_io(std::move(io), faults);
    if (options.queue) io = io::DiskQueue::share(options.queue, std::move(io));
    out->reset(new DiskTier(std::move(file), std::move(io), options.limit));
    return Status::ok();
}

DiskTier::DiskTier(std::unique_ptr<DiskFile> file, std::unique_ptr<io::BlockIo> io, uint64_t limit)
    : file_(std::move(file)),
      io_(std::move(io)),
      space_(limit, [this](uint64_t from, uint64_t bytes) { return io_->grow(from, bytes); }) {}

DiskTier::~DiskTier() = default;

uint64_t DiskTier::checksum(const std::byte* memory, size_t bytes, uint64_t offset) {
    return XXH3_64bits_withSeed(memory, bytes, offset);
}

Status DiskTier::failure(const UnitTransfer& transfer, const std::string& what) const {
    return Status::io(std::string(transfer.request.is_write ? "write" : "read") + " of " +
                      std::to_string(transfer.bytes) + " bytes at " + std::to_string(transfer.unit.offset) + " of '" +
                      file_->path() + "': " + what);
}

Status DiskTier::allocate(size_t bytes, DiskUnit* out) {
    int error = 0;
    switch (space_.allocate(bytes, &out->offset, &error)) {
        case UnitSpace::Result::kOk:
            return Status::ok();
        case UnitSpace::Result::kLimit:
            return Status::out_of_memory("'" + file_->path() + "' has " + std::to_string(space_.file_bytes()) +
                                         " bytes, " + std::to_string(space_.in_use()) +
                                         " of them in use: ATLAS_KV_DISK_LIMIT=" + std::to_string(space_.limit()));
        case UnitSpace::Result::kError:
            break;
    }
    const std::lock_guard lock(stats_mutex_);
    ++stats_.write_errors;
    return Status::io("'" + file_->path() + "' cannot grow at " + std::to_string(space_.file_bytes()) + ": " +
                      io::errno_text(error));
}

void DiskTier::retire(const DiskUnit& unit, size_t bytes) noexcept {
    if (unit.exists()) space_.retire(bytes);
}

void DiskTier::submit(UnitTransfer* transfer) {
    io::IoRequest& request = transfer->request;
    request.memory = transfer->memory + transfer->done;
    request.offset = transfer->unit.offset + transfer->done;
    request.bytes = transfer->bytes - transfer->done;
    request.result = 0;
    io::IoRequest* pointer = &request;
    io_->submit({&pointer, 1});
}

bool DiskTier::advance(UnitTransfer* transfer) {
    const io::IoRequest& request = transfer->request;
    Status status;
    if (request.result > 0) {
        // A direct transfer goes on at a block, so what is beyond the last whole one is made again.
        const size_t part = static_cast<size_t>(request.result);
        transfer->done += part == request.bytes ? part : part / io::kIoAlignment * io::kIoAlignment;
        if (transfer->done < transfer->bytes) {
            if (part >= io::kIoAlignment) {
                submit(transfer);
                return false;
            }
            status = failure(*transfer, "only " + std::to_string(transfer->done + part) + " bytes");
        }
    } else if (request.result == 0) {
        status = failure(*transfer, "only " + std::to_string(transfer->done) + " bytes");
    } else {
        status = failure(*transfer, io::errno_text(static_cast<int>(-request.result)));
    }
    const bool is_write = request.is_write;
    bool corrupt = false;
    if (transfer->ahead && !status.is_ok()) {
        transfer->status = std::move(status);
        return true;
    }
    if (status.is_ok() && !is_write &&
        checksum(transfer->memory, transfer->bytes, transfer->unit.offset) != transfer->unit.checksum) {
        corrupt = !transfer->ahead;
        status = Status::corrupt(failure(*transfer, "not what was written there: its checksum is wrong").message());
    }
    const bool again = !status.is_ok() && !is_write && !transfer->retried && !transfer->ahead;
    {
        const std::lock_guard lock(stats_mutex_);
        stats_.corrupt += corrupt ? 1 : 0;
        stats_.retries += again ? 1 : 0;
        if (!again) {
            ++(is_write ? stats_.writes : stats_.reads);
            (is_write ? stats_.written_bytes : stats_.read_bytes) += transfer->bytes;
            if (!status.is_ok() && !transfer->ahead) ++(is_write ? stats_.write_errors : stats_.read_errors);
        }
    }
    if (again) {
        transfer->retried = true;
        transfer->done = 0;
        submit(transfer);
        return false;
    }
    transfer->status = std::move(status);
    return true;
}

void DiskTier::take_done(bool wait) {
    reaped_.clear();
    io_->reap(wait, &reaped_);
    for (io::IoRequest* request : reaped_) {
        auto* transfer = static_cast<UnitTransfer*>(request->owner);
        if (!advance(transfer)) continue;
        if (request->is_write) {
            --writing_;
            written_.push_back(transfer);
        } else {
            transfer->pending = false;
        }
    }
}

void DiskTier::read(std::span<UnitTransfer* const> transfers) {
    if (transfers.empty()) return;
    begin_reads(transfers, false);
    finish_reads(transfers);
}

void DiskTier::begin_reads(std::span<UnitTransfer* const> transfers, bool ahead) {
    std::vector<io::IoRequest*> requests;
    requests.reserve(transfers.size());
    for (UnitTransfer* transfer : transfers) {
        transfer->done = 0;
        transfer->retried = false;
        transfer->ahead = ahead;
        transfer->pending = true;
        transfer->request = {false, transfer->memory, transfer->unit.offset, transfer->bytes, transfer, 0};
        transfer->request.urgency = ahead ? io::Urgency::kSoon : io::Urgency::kNow;
        requests.push_back(&transfer->request);
    }
    io_->submit(requests);
}

void DiskTier::finish_reads(std::span<UnitTransfer* const> transfers) {
    if (transfers.empty()) return;
    const Waiting waiting(stats_mutex_, &stats_.wait_seconds);
    for (const UnitTransfer* transfer : transfers) {
        while (transfer->pending) take_done(true);
    }
}

void DiskTier::begin_write(UnitTransfer* transfer) {
    transfer->done = 0;
    transfer->request.is_write = true;
    transfer->request.urgency = io::Urgency::kLater;
    transfer->request.owner = transfer;
    written_.reserve(written_.size() + writing_ + 1);
    ++writing_;
    submit(transfer);
}

void DiskTier::finish_writes(bool wait, std::vector<UnitTransfer*>* done) {
    done->reserve(done->size() + written_.size() + writing_);
    if (written_.empty() && writing_ > 0) {
        if (wait) {
            const Waiting waiting(stats_mutex_, &stats_.wait_seconds);
            while (written_.empty()) take_done(true);
        } else {
            take_done(false);
        }
    }
    done->insert(done->end(), written_.begin(), written_.end());
    written_.clear();
}

uint64_t DiskTier::room() const {
    const uint64_t file = space_.file_bytes();
    const uint64_t own = file - std::min(file, space_.in_use());
    const uint64_t more = file_->free_bytes();
    return own + (space_.limit() > 0 ? std::min(more, space_.limit() - std::min(space_.limit(), file)) : more);
}

DiskStats DiskTier::stats() const {
    DiskStats stats;
    {
        const std::lock_guard lock(stats_mutex_);
        stats = stats_;
    }
    stats.in_use = space_.in_use();
    stats.file_bytes = space_.file_bytes();
    return stats;
}

}  // namespace atlas::kv
