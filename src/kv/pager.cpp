#include "kv/pager.h"

#include <algorithm>
#include <cstdio>
#include <new>
#include <span>
#include <utility>

#include "base/log.h"
#include "kv/key_rows.h"
#include "kv/page_table.h"

namespace atlas::kv {
namespace {

// Looking for victims goes over all pages in memory, so that many are taken at a time; not so many that those worth most are among them.
constexpr size_t kShareOfVictims = 8;
// Written at a time: enough for a device's speed, and little to wait for where a read comes behind.
constexpr size_t kWrites = 32;
// Of the memory, for reading where the disk is full.
constexpr uint64_t kShareForReading = 8;
// So many failed writes in a row, and the disk gets no more.
constexpr int kMostFailures = 8;
// Pages of rows that are written at a time, each with memory of its own.
constexpr size_t kRowWrites = 8;
// Reads of rows under way, at least and at most, and the share of memory that they may take.
constexpr uint64_t kLeastReads = 8, kMostReads = 256, kShareOfReads = 64;
// Where all pages in memory are in use they are looked over again after so many wishes for idle ones: once in some tokens.
constexpr int kLooksSpared = 256;

}  // namespace

Pager::Pager(Budget& budget, std::unique_ptr<DiskTier> disk, const EvictionPolicy& policy)
    : budget_(budget), policy_(policy), disk_(std::move(disk)) {
    budget_.set_relief([this](uint64_t bytes) {
        try {
            return make_room(bytes).is_ok();
        } catch (const std::bad_alloc&) {
            return false;
        }
    });
}

Pager::~Pager() {
    budget_.set_relief({});
    budget_.release(buffer_bytes_);
}

void Pager::Free::operator()(std::byte* memory) const {
    ::operator delete[](memory, std::align_val_t{io::kIoAlignment});
}

Pager::Buffer Pager::allocate(size_t bytes) {
    return Buffer(static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{io::kIoAlignment})));
}

void Pager::add(PageTable* table) {
    const std::lock_guard lock(mutex_);
    tables_.push_back(table);
}

void Pager::remove(PageTable* table) noexcept {
    const std::lock_guard lock(mutex_);
    finish_all_writes();
    drop_ahead();
    follows_.clear();
    last_through_ = {};
    victims_.clear();
    next_victim_ = 0;
    std::erase(tables_, table);
}

void Pager::finish_all_writes() noexcept {
    try {
        while (!writes_.empty()) finish_writes(true, false);
    } catch (const std::bad_alloc&) {
        log().error("KV disk tier: no memory to end its writes");
    }
}

bool Pager::has_room(uint64_t bytes) const {
    const uint64_t limit = budget_.limit();
    return limit == 0 || (bytes <= limit && budget_.in_use() <= limit - bytes);
}

void Pager::find_victims(bool clean) {
    victims_.clear();
    next_victim_ = 0;
    for (PageTable* table : tables_) {
        // Where the disk is full, what nobody needs makes room in it.
        if (clean) table->drop_unneeded();
        table->for_each_evictable(
            clean, [&](size_t page, double value, bool idle) { victims_.push_back({table, page, value, idle}); });
    }
    const size_t count = std::min(victims_.size(), victims_.size() / kShareOfVictims + 1);
    const auto less = [](const Victim& a, const Victim& b) { return a.value < b.value; };
    if (count < victims_.size()) {
        std::nth_element(victims_.begin(), victims_.begin() + static_cast<std::ptrdiff_t>(count), victims_.end(), less);
        victims_.resize(count);
    }
    std::sort(victims_.begin(), victims_.end(), less);
    cutoff_ = victims_.empty() ? 0.0 : victims_.back().value;
}

void Pager::note_failure(const Status& status) {
    if (last_failure_.is_ok()) log().warn("KV disk tier: {}; such pages stay in memory", status.message());
    last_failure_ = status;
}

std::unique_ptr<Pager::Write> Pager::new_write() {
    std::unique_ptr<Write> write;
    if (spare_.empty()) {
        write = std::make_unique<Write>();
    } else {
        write = std::move(spare_.back());
        spare_.pop_back();
    }
    writes_.reserve(writes_.size() + 1);
    spare_.reserve(spare_.size() + writes_.size() + 2);
    return write;
}

Pager::Writing Pager::begin_write(const Victim& victim) {
    if (failures_ >= kMostFailures) return Writing::kRefused;
    if (!sending()) {
        last_failure_ = Status::unsupported("the module tiered-kv is not loaded");
        return Writing::kRefused;
    }
    std::unique_ptr<Write> write = new_write();
    const size_t bytes = victim.table->unit_bytes();
    DiskUnit unit;
    if (Status status = disk_->allocate(bytes, &unit); !status.is_ok()) {
        note_failure(status);
        spare_.push_back(std::move(write));
        return Writing::kRefused;
    }
    write->table = victim.table;
    write->page = victim.page;
    write->transfer.unit = unit;
    write->transfer.bytes = bytes;
    write->transfer.owner = write.get();
    if (!victim.table->begin_write(victim.page, &write->transfer, &write->version)) {
        disk_->release(unit, bytes);
        spare_.push_back(std::move(write));
        return Writing::kBusy;
    }
    disk_->begin_write(&write->transfer);
    writes_.push_back(std::move(write));
    return Writing::kStarted;
}

bool Pager::finish_writes(bool wait, bool evict) {
    done_.clear();
    disk_->finish_writes(wait, &done_);
    for (UnitTransfer* transfer : done_) {
        auto* write = static_cast<Write*>(transfer->owner);
        const bool good = transfer->status.is_ok();
        if (!good) {
            // Perhaps it is the place that is bad.
            disk_->retire(transfer->unit, transfer->bytes);
            note_failure(transfer->status);
            if (++failures_ == kMostFailures)
                log().error(
                    "KV disk tier: {} writes failed one after the other, the last: {}; nothing more goes to disk",
                    failures_, transfer->status.message());
        } else {
            failures_ = 0;
        }
        if (KeyRows* rows = std::exchange(write->rows, nullptr)) {
            if (!good) rows_on_disk_ -= transfer->bytes;
            rows->end_write(static_cast<int64_t>(write->page), transfer->unit, good);
            write->memory.reset();
            budget_.release(transfer->bytes);
            --row_writes_;
        } else {
            write->table->end_write(write->page, write->version, good ? transfer->unit : DiskUnit{});
            if (good && evict && write->table->leave(write->page) == Leaving::kGone)
                evictions_.fetch_add(1, std::memory_order_relaxed);
        }
        const auto at = std::find_if(writes_.begin(), writes_.end(), [&](const auto& w) { return w.get() == write; });
        spare_.push_back(std::move(*at));
        *at = std::move(writes_.back());
        writes_.pop_back();
    }
    return !done_.empty();
}

Status Pager::make_room(uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    return make_room_locked(bytes);
}

Status Pager::make_room_locked(uint64_t bytes) {
    if (has_room(bytes)) return Status::ok();
    // Nothing need leave for what can never be.
    if (bytes > budget_.limit())
        return Status::out_of_memory("KV pages of " + std::to_string(bytes) + " bytes at once: " + budget_.to_string());
    if (!writes_.empty()) finish_writes(false, false);
    const auto gone = [&] { return evictions_.load(std::memory_order_relaxed); };
    bool refused = false;
    bool may_look = true;  // for victims: something changed since
    uint64_t before = 0;
    int failures = failures_;
    while (!has_room(bytes)) {
        // Other places of the disk are tried, until it is given up.
        may_look = may_look || failures_ > failures;
        failures = failures_;
        if (next_victim_ < victims_.size()) {
            const Victim victim = victims_[next_victim_];
            // What is read with every token is worth more than any single key.
            if (!victim.idle && give_back_rows(bytes)) continue;
            ++next_victim_;
            if (victim.table->value(victim.page) > cutoff_) continue;  // it was used since
            const Leaving leaving = victim.table->leave(victim.page);
            if (leaving == Leaving::kGone) evictions_.fetch_add(1, std::memory_order_relaxed);
            if (leaving != Leaving::kDirty || refused) continue;
            refused = begin_write(victim) == Writing::kRefused;
            may_look = may_look || refused;
            if (writes_.size() >= kWrites) finish_writes(true, true);
        } else if (!writes_.empty()) {
            finish_writes(true, true);
        } else if (may_look || gone() != before) {
            may_look = false;
            before = gone();
            find_victims(refused);
        } else if (give_back_rows(bytes) || drop_ahead()) {
            continue;
        } else {
            refusals_.fetch_add(1, std::memory_order_relaxed);
            return Status::out_of_memory(
                "KV pages of " + std::to_string(bytes) + " bytes: " + budget_.to_string() + ", and " +
                (refused || failures_ > 0 ? "the rest cannot leave memory: " + last_failure_.message()
                                          : std::string("all of it is needed at once")));
        }
    }
    write_ahead();
    return Status::ok();
}

void Pager::add(RowCache* cache) { row_caches_.push_back(cache); }

void Pager::remove(RowCache* cache) noexcept { std::erase(row_caches_, cache); }

bool Pager::give_back_rows(uint64_t bytes) {
    bool any = false;
    for (RowCache* cache : row_caches_) any = any || cache->give_back(bytes);
    return any;
}

bool Pager::make_idle_room(uint64_t bytes) {
    if (has_room(bytes)) return true;
    if (looks_spared_ > 0) {
        --looks_spared_;
        return false;
    }
    if (!writes_.empty()) finish_writes(false, false);
    bool looked = false;
    while (!has_room(bytes)) {
        const bool has_victim = next_victim_ < victims_.size() && victims_[next_victim_].idle;
        if (has_victim) {
            const Victim victim = victims_[next_victim_++];
            if (victim.table->value(victim.page) > cutoff_) continue;
            const Leaving leaving = victim.table->leave(victim.page);
            if (leaving == Leaving::kGone) evictions_.fetch_add(1, std::memory_order_relaxed);
            if (leaving == Leaving::kDirty && begin_write(victim) == Writing::kStarted && writes_.size() >= kWrites)
                finish_writes(true, true);
        } else if (!writes_.empty()) {
            finish_writes(true, true);
        } else if (!looked) {
            looked = true;
            find_victims(false);
        } else {
            looks_spared_ = kLooksSpared;
            return false;
        }
    }
    write_ahead();
    return true;
}

/** Whether the disk has room for so much besides all pages that tables may ever hold: rows are a second copy, which must not take their place. */
bool Pager::has_spare_disk(uint64_t bytes) const {
    uint64_t pages = 0;
    for (const PageTable* table : tables_) pages += static_cast<uint64_t>(table->pages()) * table->unit_bytes();
    return disk_->room() + disk_->stats().in_use >= pages + rows_on_disk_ + bytes;
}

void Pager::release_rows(const DiskUnit& region, size_t bytes) noexcept {
    disk_->release(region, bytes);
    rows_on_disk_ -= bytes;
}

std::byte* Pager::begin_rows(size_t bytes, DiskUnit* region) {
    if (failures_ >= kMostFailures || !sending()) return nullptr;
    while (row_writes_ >= kRowWrites) finish_writes(true, false);
    if (!make_room_locked(bytes).is_ok()) return nullptr;
    Buffer memory = allocate(bytes);
    rows_ = new_write();
    if (!budget_.reserve(bytes)) return nullptr;
    if (!has_spare_disk(bytes) || !disk_->allocate(bytes, region).is_ok()) {
        budget_.release(bytes);
        return nullptr;
    }
    rows_on_disk_ += bytes;
    rows_->memory = std::move(memory);
    rows_->transfer.unit = *region;
    rows_->transfer.bytes = bytes;
    return rows_->memory.get();
}

void Pager::write_rows(KeyRows* rows, int64_t page) {
    Write* write = rows_.get();
    write->rows = rows;
    write->page = static_cast<size_t>(page);
    write->transfer.memory = write->memory.get();
    write->transfer.owner = write;
    disk_->begin_write(&write->transfer);
    writes_.push_back(std::move(rows_));
    ++row_writes_;
}

Status Pager::read_buffer(size_t unit_bytes, std::span<std::byte>* buffer) {
    if (buffer_bytes_ < unit_bytes * kLeastReads) {
        budget_.release(std::exchange(buffer_bytes_, 0));
        buffer_.reset();
        const uint64_t share = budget_.limit() / kShareOfReads / unit_bytes;
        const size_t bytes = unit_bytes * static_cast<size_t>(std::clamp(share, kLeastReads, kMostReads));
        if (Status status = make_room_locked(bytes); !status.is_ok()) return status;
        Buffer memory = allocate(bytes);
        if (!budget_.reserve(bytes)) return Status::out_of_memory("reads of KV rows: " + budget_.to_string());
        buffer_ = std::move(memory);
        buffer_bytes_ = bytes;
    }
    *buffer = {buffer_.get(), buffer_bytes_};
    return Status::ok();
}

void Pager::read_rows(std::span<UnitTransfer* const> reads) {
    drop_ahead();
    waits_.fetch_add(1, std::memory_order_relaxed);
    row_reads_.fetch_add(reads.size(), std::memory_order_relaxed);
    disk_->read(reads);
}

void Pager::count_rows(uint64_t hits, uint64_t misses) {
    row_hits_.fetch_add(hits, std::memory_order_relaxed);
    row_misses_.fetch_add(misses, std::memory_order_relaxed);
}

void Pager::write_ahead() {
    const size_t end = std::min(victims_.size(), next_victim_ + kWrites);
    for (size_t i = next_victim_; i < end && writes_.size() < kWrites; ++i) {
        // What is in use may change before it leaves.
        if (!victims_[i].idle || begin_write(victims_[i]) == Writing::kRefused) return;
    }
}

Status Pager::own(PageTable* table, size_t page) {
    const std::lock_guard lock(mutex_);
    Status status;
    const uint64_t limit = budget_.limit();
    // What is on disk has to be read when the disk is full, too: from then on some memory is kept free of what only memory has.
    if (table->is_absent(page) && disk_->room() < limit) {
        status = make_room_locked(table->unit_bytes() + limit / kShareForReading);
        if (!status.is_ok()) return status;
    }
    // A shared page may be what leaves for its own copy, and comes back as one.
    for (int attempt = 0; attempt < 3; ++attempt) {
        const std::byte* address = nullptr;
        if (!table->is_in_memory(page, &address)) {
            Pinned none;
            if (status = load_locked({{table, page, &address, &none}}, PinMode::kKeep); !status.is_ok()) return status;
        }
        std::byte* memory = nullptr;
        status = table->own(page, &memory);
        if (status.code() != StatusCode::kOutOfMemory) return status;
        if (status = make_room_locked(table->unit_bytes()); !status.is_ok()) return status;
    }
    return Status::out_of_memory("KV page of " + std::to_string(table->unit_bytes()) +
                                 " bytes: " + budget_.to_string());
}

PagerStats Pager::stats() const {
    PagerStats stats;
    stats.hits = hits_.load(std::memory_order_relaxed);
    stats.misses = misses_.load(std::memory_order_relaxed);
    stats.waits = waits_.load(std::memory_order_relaxed);
    stats.evictions = evictions_.load(std::memory_order_relaxed);
    stats.refusals = refusals_.load(std::memory_order_relaxed);
    stats.ahead_reads = ahead_reads_.load(std::memory_order_relaxed);
    stats.ahead_hits = ahead_hits_.load(std::memory_order_relaxed);
    stats.row_hits = row_hits_.load(std::memory_order_relaxed);
    stats.row_misses = row_misses_.load(std::memory_order_relaxed);
    stats.row_reads = row_reads_.load(std::memory_order_relaxed);
    const std::lock_guard lock(mutex_);
    for (const RowCache* cache : row_caches_) stats.row_bytes += cache->bytes();
    stats.disk = disk_->stats();
    return stats;
}

std::string Pager::json() const {
    const PagerStats s = stats();
    std::string text = "{";
    const auto add = [&](const char* name, uint64_t value) {
        text += std::string(text.size() > 1 ? ", \"" : "\"") + name + "\": " + std::to_string(value);
    };
    add("ram_bytes", budget_.in_use());
    add("ram_limit", budget_.limit());
    add("disk_bytes", s.disk.in_use);
    add("file_bytes", s.disk.file_bytes);
    add("direct", disk_->is_direct() ? 1 : 0);
    add("hits", s.hits);
    add("misses", s.misses);
    add("waits", s.waits);
    add("evictions", s.evictions);
    add("refusals", s.refusals);
    add("ahead_reads", s.ahead_reads);
    add("ahead_hits", s.ahead_hits);
    add("row_hits", s.row_hits);
    add("row_misses", s.row_misses);
    add("row_reads", s.row_reads);
    add("row_bytes", s.row_bytes);
    add("read_bytes", s.disk.read_bytes);
    add("written_bytes", s.disk.written_bytes);
    add("read_errors", s.disk.read_errors);
    add("write_errors", s.disk.write_errors);
    add("corrupt", s.disk.corrupt);
    add("retries", s.disk.retries);
    char seconds[48];
    std::snprintf(seconds, sizeof seconds, ", \"wait_seconds\": %.6f}", s.disk.wait_seconds);
    return text + seconds;
}

}  // namespace atlas::kv
