// How the pager brings pages in: see Pager.
#include <algorithm>
#include <new>
#include <span>
#include <utility>

#include "base/log.h"
#include "kv/page_table.h"
#include "kv/pager.h"

namespace atlas::kv {
namespace {

// Of the memory, for what is read ahead: it keeps nothing else there, and a part of a layer is enough for the disk to have something to do.
constexpr uint64_t kShareAhead = 8;

}  // namespace

Status Pager::load(const std::vector<Missing>& missing, PinMode mode) {
    const std::lock_guard lock(mutex_);
    return load_locked(missing, mode);
}

uint64_t Pager::room_ahead() const { return std::min(most_through_, budget_.limit() / kShareAhead); }

std::unique_ptr<UnitTransfer> Pager::take_ahead(const Missing& page) {
    const auto found = ahead_.find({page.table, page.page});
    if (found == ahead_.end()) return nullptr;
    std::unique_ptr<UnitTransfer>& read = found->second;
    const DiskUnit unit = page.table->unit_of(page.page);
    // It may have been written anew since.
    if (read->unit.offset != unit.offset || read->unit.checksum != unit.checksum) return nullptr;
    std::unique_ptr<UnitTransfer> taken = std::move(read);
    ahead_.erase(found);
    ahead_bytes_ -= taken->bytes;
    return taken;
}

bool Pager::drop_ahead() noexcept {
    if (ahead_.empty()) return false;
    try {
        for (const auto& [place, read] : ahead_) {
            UnitTransfer* pointer = read.get();
            disk_->finish_reads({&pointer, 1});
        }
    } catch (const std::bad_alloc&) {
        // A read may still be under way, into memory that must not be given to others.
        log().error("KV disk tier: no memory to end its reads");
        return false;
    }
    for (const auto& [place, read] : ahead_) place.table->give_up_read(read->memory);
    ahead_.clear();
    ahead_bytes_ = 0;
    return true;
}

void Pager::read_ahead(const std::vector<Missing>& missing) {
    const Place first{missing.front().table, missing.front().page};
    if (last_through_.table) {
        std::vector<Place>& following = follows_[last_through_];
        following.clear();
        for (const Missing& page : missing) following.push_back({page.table, page.page});
    }
    last_through_ = first;
    const auto next = follows_.find(first);
    if (next == follows_.end()) return;
    uint64_t bytes = 0;
    for (const Place& place : next->second) bytes += place.table->unit_bytes();
    bytes = std::min(bytes, room_ahead());
    if (bytes <= ahead_bytes_ || !make_room_locked(bytes - ahead_bytes_).is_ok()) return;
    std::vector<UnitTransfer*> begun;
    begun.reserve(next->second.size());
    for (const Place& place : next->second) {
        const std::byte* address = nullptr;
        const size_t unit_bytes = place.table->unit_bytes();
        if (ahead_bytes_ + unit_bytes > bytes || !has_room(unit_bytes)) break;
        if (place.table->is_in_memory(place.page, &address) || ahead_.contains(place)) continue;
        try {
            auto read = std::make_unique<UnitTransfer>();
            UnitTransfer* const transfer = read.get();
            std::unique_ptr<UnitTransfer>& kept = ahead_[place];
            if (!place.table->begin_read(place.page, transfer).is_ok()) {
                ahead_.erase(place);
                break;
            }
            kept = std::move(read);
            begun.push_back(transfer);
            ahead_bytes_ += transfer->bytes;
        } catch (const std::bad_alloc&) {
            // What is begun is read all the same.
            if (const auto empty = ahead_.find(place); empty != ahead_.end() && !empty->second) ahead_.erase(empty);
            break;
        }
    }
    ahead_reads_.fetch_add(begun.size(), std::memory_order_relaxed);
    if (!begun.empty()) disk_->begin_ahead(begun);
}

Status Pager::load_locked(const std::vector<Missing>& missing, PinMode mode) {
    uint64_t bytes = 0;
    for (const Missing& page : missing) bytes += page.table->unit_bytes();
    const bool through = mode == PinMode::kThrough || mode == PinMode::kAside;
    bool keep = mode == PinMode::kKeep;
    if (through) {
        most_through_ = std::max(most_through_, bytes);
        const uint64_t ahead = room_ahead();
        keep = has_room(bytes + most_through_ + ahead - std::min(ahead, ahead_bytes_));
    }
    std::vector<std::unique_ptr<UnitTransfer>> taken;
    taken.reserve(missing.size());
    for (const Missing& page : missing) {
        taken.push_back(ahead_.empty() ? nullptr : take_ahead(page));
        if (taken.back()) bytes -= taken.back()->bytes;
    }
    // Whatever else was read ahead was for something that did not come.
    drop_ahead();
    Status status = make_room_locked(bytes);
    std::vector<UnitTransfer> reads(missing.size());
    std::vector<UnitTransfer*> wanted, early, again;
    wanted.reserve(2 * missing.size());
    early.reserve(missing.size());
    for (size_t i = 0; i < missing.size(); ++i) {
        const Missing& page = missing[i];
        if (taken[i]) {
            early.push_back(taken[i].get());
        } else if (status.is_ok() && !page.table->is_in_memory(page.page, page.address)) {
            status = page.table->begin_read(page.page, &reads[i]);
            if (status.is_ok()) wanted.push_back(&reads[i]);
        }
        // Else another pin has read it meanwhile.
    }
    if (status.is_ok()) {
        waits_.fetch_add(1, std::memory_order_relaxed);
        misses_.fetch_add(wanted.size() + early.size(), std::memory_order_relaxed);
        ahead_hits_.fetch_add(early.size(), std::memory_order_relaxed);
        disk_->begin_reads(wanted);
        // The disk goes on with these as soon as it is done with what is waited for.
        if (mode == PinMode::kThrough && !keep) {
            // The reads above are under way into memory of this frame: it must not be left before they have ended.
            try {
                read_ahead(missing);
            } catch (const std::bad_alloc&) {
                log().debug("KV disk tier: no memory to read ahead");
            }
        }
    }
    disk_->finish_reads(early);
    for (size_t i = 0; i < missing.size(); ++i) {
        if (!taken[i]) continue;
        reads[i].unit = taken[i]->unit;
        reads[i].memory = taken[i]->memory;
        reads[i].bytes = taken[i]->bytes;
        // What went wrong was not counted, and may go well now.
        if (!taken[i]->status.is_ok()) again.push_back(&reads[i]);
    }
    if (status.is_ok()) {
        disk_->begin_reads(again);
        wanted.insert(wanted.end(), again.begin(), again.end());
        disk_->finish_reads(wanted);
        for (const UnitTransfer* read : wanted) {
            if (status.is_ok()) status = read->status;
        }
    }
    for (size_t i = 0; i < missing.size(); ++i) {
        if (!reads[i].memory) continue;
        const Missing& page = missing[i];
        if (!status.is_ok()) {
            page.table->give_up_read(reads[i].memory);
        } else if (keep) {
            *page.address = page.table->end_read(page.page, reads[i].memory);
        } else {
            page.pinned->frames_.push_back(reads[i].memory);
            *page.address = reads[i].memory;
        }
    }
    return status;
}

}  // namespace atlas::kv
