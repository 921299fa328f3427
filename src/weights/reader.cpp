#include "weights/reader.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <exception>
#include <new>
#include <sstream>
#include <utility>

#include "base/log.h"
#include "io/errno_text.h"
#include "io/faulty_io.h"

namespace atlas::weights {

void Reader::Unmap::operator()(std::byte* memory) const { munmap(memory, bytes); }

Status Reader::open(const ReaderSettings& settings, std::unique_ptr<Reader>* out) {
    io::Faults faults;
    if (Status status = io::parse_faults(settings.faults, &faults); !status.is_ok()) return status;
    std::unique_ptr<Reader> reader(new Reader(settings));
    reader->io_ = settings.uring ? io::make_uring_io(-1) : nullptr;
    if (!reader->io_) {
        if (settings.uring) log().warn("weights: the system has no io_uring: one read after the other");
        reader->io_ = io::make_plain_io(-1);
        // Each is done before the next one begins; what is needed first must not wait for others.
        reader->depth_ = 1;
    }
    if (!settings.faults.empty()) reader->io_ = io::make_faulty_io(std::move(reader->io_), faults);
    if (settings.queue) reader->io_ = io::DiskQueue::share(settings.queue, std::move(reader->io_));
    for (size_t i = 0; i < reader->depth_; ++i) reader->free_reads_.push_back(&reader->reads_[i]);
    reader->thread_ = std::thread([target = reader.get()] { target->work(); });
    *out = std::move(reader);
    return Status::ok();
}

Reader::Reader(const ReaderSettings& settings) : settings_(settings) {
    const size_t bytes = settings_.slots * settings_.slot_bytes;
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    ring_ = std::unique_ptr<std::byte[], Unmap>(static_cast<std::byte*>(memory), Unmap{bytes});
    madvise(memory, bytes, MADV_HUGEPAGE);  // only a wish
    slots_.resize(settings_.slots);
    for (size_t i = 0; i < slots_.size(); ++i) {
        slots_[i].memory = ring_.get() + i * settings_.slot_bytes;
        free_slots_.push_back(static_cast<int32_t>(i));
    }
    free_reads_.reserve(kDepth);
}

Reader::~Reader() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    work_.notify_all();
    if (thread_.joinable()) thread_.join();
}

void Reader::begin(std::span<Chunk* const> order, std::span<Chunk* const> following) {
    {
        const std::lock_guard lock(mutex_);
        first_turn_ += order_.size();
        order_ = order;
        following_ = following;
        position_ = 0;
        now_.clear();
        status_ = broken_ ? Status::out_of_memory("weights: no memory left for reading them") : Status::ok();
        failed_.clear();
        for (Slot& slot : slots_) slot.turn = kNever;
        // What was read ahead stays where this order needs it soon: chunks of later turns could leave no room for earlier ones.
        size_t soon = slots_.size();
        for (size_t i = 0; i < order.size() && soon > 0; ++i) {
            if (order[i]->pinned) continue;
            --soon;
            if (order[i]->slot < 0) continue;
            Slot& slot = slots_[static_cast<size_t>(order[i]->slot)];
            if (slot.turn != kNever) continue;
            slot.turn = first_turn_ + i;
            order[i]->rows_left.store(order[i]->rows, std::memory_order_relaxed);
        }
        for (size_t i = 0; i < slots_.size(); ++i) {
            if (slots_[i].chunk && slots_[i].turn == kNever) free_slot(static_cast<int32_t>(i));
        }
    }
    work_.notify_all();
}

void Reader::free_slot(int32_t index) {
    Slot& slot = slots_[static_cast<size_t>(index)];
    slot.chunk->at.store(nullptr, std::memory_order_relaxed);
    slot.chunk->slot = -1;
    slot.chunk = nullptr;
    slot.turn = kNever;
    // What is still being read there ends first.
    if (!slot.reading) free_slots_.push_back(index);
}

template <class Condition>
bool Reader::wait_patiently(std::unique_lock<std::mutex>& lock, const Condition& condition) {
    // Little by little: a process that was stopped meanwhile has seen no silence of the device.
    const std::chrono::duration<double> slice(settings_.patience_seconds / kSlices);
    for (int i = 0; i < kSlices; ++i) {
        if (arrived_.wait_for(lock, slice, condition)) return true;
    }
    return false;
}

const std::byte* Reader::wait(Chunk& chunk) {
    asked_.fetch_add(1, std::memory_order_relaxed);
    if (const std::byte* there = peek(chunk)) return there;
    const auto begin = std::chrono::steady_clock::now();
    std::unique_lock lock(mutex_);
    const auto has_failed = [&] { return std::find(failed_.begin(), failed_.end(), &chunk) != failed_.end(); };
    const bool answered =
        wait_patiently(lock, [&] { return peek(chunk) != nullptr || !status_.is_ok() || has_failed(); });
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
    ++stats_.waits;
    stats_.wait_seconds += passed.count();
    if (!status_.is_ok()) return nullptr;
    if (const std::byte* there = peek(chunk)) return there;
    std::ostringstream silence;
    silence << "read of " << chunk.bytes << " bytes at " << chunk.offset << " of '" << chunk.file->path()
            << "': no answer within " << settings_.patience_seconds << " s";
    status_ = Status::io(answered ? why_ : silence.str());
    arrived_.notify_all();
    return nullptr;
}

void Reader::done(Chunk& chunk, int64_t rows) {
    if (chunk.pinned || chunk.rows_left.fetch_sub(rows, std::memory_order_acq_rel) != rows) return;
    {
        const std::lock_guard lock(mutex_);
        chunk.used = slots_[static_cast<size_t>(chunk.slot)].turn;
        free_slot(chunk.slot);
    }
    work_.notify_one();
}

void Reader::read_now(std::span<Chunk* const> chunks) {
    {
        const std::lock_guard lock(mutex_);
        now_.insert(now_.end(), chunks.begin(), chunks.end());
    }
    work_.notify_one();
}

void Reader::give(std::span<Chunk> chunks, std::byte* memory) {
    const std::lock_guard lock(mutex_);
    for (Chunk& chunk : chunks) {
        chunk.pinned = memory;
        memory += chunk.bytes;
    }
}

bool Reader::release(std::span<Chunk> chunks) {
    const std::lock_guard lock(mutex_);
    if (std::any_of(chunks.begin(), chunks.end(), [](const Chunk& chunk) { return chunk.reading; })) return false;
    for (Chunk& chunk : chunks) {
        chunk.at.store(nullptr, std::memory_order_relaxed);
        chunk.pinned = nullptr;
    }
    return true;
}

bool Reader::settle() {
    std::unique_lock lock(mutex_);
    return wait_patiently(lock, [&] { return under_way_now_ == 0; });
}

Status Reader::status() const {
    const std::lock_guard lock(mutex_);
    return status_;
}

bool Reader::forget() {
    std::unique_lock lock(mutex_);
    first_turn_ += order_.size();
    order_ = following_ = {};
    position_ = 0;
    now_.clear();
    failed_.clear();
    for (size_t i = 0; i < slots_.size(); ++i) {
        if (slots_[i].chunk) free_slot(static_cast<int32_t>(i));
    }
    return wait_patiently(lock, [&] { return free_reads_.size() == depth_; });
}

ReaderStats Reader::stats() const {
    const std::lock_guard lock(mutex_);
    ReaderStats stats = stats_;
    stats.asked = asked_.load(std::memory_order_relaxed);
    return stats;
}

Chunk* Reader::next_now() {
    while (!now_.empty()) {
        Chunk* chunk = now_.front();
        now_.pop_front();
        // It may have lost its memory again.
        if (chunk->pinned && !chunk->reading && !peek(*chunk)) return chunk;
    }
    return nullptr;
}

/** What is to be read next of the pass; nullptr: nothing, or there is no room yet. */
Chunk* Reader::next_ahead() {
    for (; position_ < order_.size() + following_.size(); ++position_) {
        Chunk* chunk = position_ < order_.size() ? order_[position_] : following_[position_ - order_.size()];
        if (chunk->pinned) {
            if (!chunk->reading && !peek(*chunk)) return chunk;
        } else if (chunk->slot >= 0) {
            // There for an earlier use: it is read again when that is over.
            if (slots_[static_cast<size_t>(chunk->slot)].turn != first_turn_ + position_) return nullptr;
        } else if (chunk->used != first_turn_ + position_) {
            return free_slots_.empty() ? nullptr : chunk;
        }
        // Else it was read ahead, and has been used before this thread came to look at it.
    }
    return nullptr;
}

void Reader::start(Chunk* chunk, Read* read) {
    *read = {};
    read->chunk = chunk;
    std::byte* memory = chunk->pinned;
    if (memory) {
        chunk->reading = true;
    } else {
        read->slot = chunk->slot = free_slots_.back();
        free_slots_.pop_back();
        Slot& slot = slots_[static_cast<size_t>(chunk->slot)];
        slot.chunk = chunk;
        slot.turn = first_turn_ + position_;
        slot.reading = true;
        chunk->rows_left.store(chunk->rows, std::memory_order_relaxed);
        memory = slot.memory;
    }
    read->request.memory = memory;
    read->request.offset = chunk->offset;
    read->request.bytes = chunk->bytes;
    read->request.fd = chunk->file->fd();
    read->request.owner = read;
}

void Reader::fail(const Read& read) {
    const int64_t result = read.request.result;
    why_ = "read of " + std::to_string(read.request.bytes) + " bytes at " + std::to_string(read.request.offset) +
           " of '" + read.chunk->file->path() + "': " +
           (result < 0 ? io::errno_text(static_cast<int>(-result)) : "only " + std::to_string(result) + " bytes");
    ++stats_.failures;
    failed_.push_back(read.chunk);
}

bool Reader::finish(Read* read) {
    Chunk* chunk = read->chunk;
    Slot* slot = read->slot >= 0 ? &slots_[static_cast<size_t>(read->slot)] : nullptr;
    const bool wanted = !slot || slot->chunk == chunk;
    // The last chunk of a file may end behind the file's end.
    const bool good = read->request.result >= 0 && static_cast<size_t>(read->request.result) >= chunk->needed;
    if (!good && wanted && !read->retried && !stop_) {
        read->retried = true;
        ++stats_.retries;
        return false;
    }
    if (good) {
        ++stats_.reads;
        stats_.read_bytes += static_cast<uint64_t>(read->request.result);
    }
    if (slot) slot->reading = false;
    if (!slot) chunk->reading = false;
    if (read->now) --under_way_now_;
    if (!wanted) {
        free_slots_.push_back(read->slot);
    } else if (good) {
        chunk->at.store(read->request.memory, std::memory_order_release);
    } else {
        fail(*read);
        if (slot) free_slot(read->slot);
    }
    return true;
}

void Reader::work() {
    std::vector<io::IoRequest*> to_submit, reaped;
    size_t under_way = 0;
    auto busy_since = std::chrono::steady_clock::now();
    std::unique_lock lock(mutex_);
    try {
        to_submit.reserve(kDepth);
        while (!stop_ || under_way > 0) {
            while (!stop_ && !free_reads_.empty()) {
                Chunk* chunk = next_now();
                const bool now = chunk != nullptr;
                if (!now) chunk = next_ahead();
                if (!chunk) break;
                Read* read = free_reads_.back();
                free_reads_.pop_back();
                start(chunk, read);
                read->now = now;
                read->request.urgency = now ? io::Urgency::kNow : io::Urgency::kSoon;
                now ? ++under_way_now_ : ++position_;
                to_submit.push_back(&read->request);
            }
            under_way = depth_ - free_reads_.size();
            if (under_way == 0) {
                if (stop_) break;
                work_.wait(lock);
                continue;
            }
            if (under_way == to_submit.size()) busy_since = std::chrono::steady_clock::now();
            lock.unlock();
            if (!to_submit.empty()) io_->submit(to_submit);
            to_submit.clear();
            reaped.clear();
            io_->reap(true, &reaped);
            for (const io::IoRequest* request : reaped) {
                const Read& read = *static_cast<const Read*>(request->owner);
                if (!read.chunk->file->is_direct()) read.chunk->file->drop_cached(request->offset, request->bytes);
            }
            lock.lock();
            for (io::IoRequest* request : reaped) {
                auto* read = static_cast<Read*>(request->owner);
                if (finish(read)) {
                    free_reads_.push_back(read);
                } else {
                    to_submit.push_back(request);
                }
            }
            under_way = depth_ - free_reads_.size();
            const auto now = std::chrono::steady_clock::now();
            stats_.busy_seconds += std::chrono::duration<double>(now - busy_since).count();
            busy_since = now;
            arrived_.notify_all();
        }
    } catch (const std::exception& error) {
        if (!lock.owns_lock()) lock.lock();
        // Reads may be under way that nobody will hear of: no chunk, and not this, may end.
        broken_ = true;
        status_ = Status::out_of_memory(std::string("weights: no memory left for reading them: ") + error.what());
        arrived_.notify_all();
    }
}

}  // namespace atlas::weights
