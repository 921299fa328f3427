// What a host does with a table's bytes between graphs: read, write, update, fill, copy. See PageTable.
#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "kv/page_table.h"

namespace atlas::kv {
template <typename Visit>
Status PageTable::for_each_page(size_t offset, size_t bytes, Visit visit) const {
    while (bytes > 0) {
        const size_t index = offset / page_bytes_;
        const size_t inside = offset % page_bytes_;
        const size_t count = std::min(bytes, page_bytes_ - inside);
        if (Status status = visit(index, inside, count); !status.is_ok()) return status;
        offset += count;
        bytes -= count;
    }
    return Status::ok();
}

Status PageTable::reserve_bytes(size_t offset, size_t bytes) {
    if (bytes == 0) return Status::ok();
    const auto first = static_cast<int64_t>(offset / page_bytes_);
    const PageRange range{first, static_cast<int64_t>((offset + bytes - 1) / page_bytes_) + 1 - first};
    return reserve({&range, 1});
}

Status PageTable::read(size_t offset, void* destination, size_t bytes) const {
    auto* out = static_cast<std::byte*>(destination);
    Pinned pinned;
    int64_t left = 0;  // pages that are pinned from here on
    return for_each_page(offset, bytes, [&](size_t index, size_t inside, size_t count) {
        if (pager_ && left-- == 0) {
            // Many at a time: what has to be read is read at once.
            const auto page = static_cast<int64_t>(index);
            const auto end = static_cast<int64_t>((offset + bytes - 1) / page_bytes_) + 1;
            const PageRange range{page, std::min({end - page, pages_at_once(), kChunkPages})};
            if (Status status = pin({&range, 1}, &pinned, PinMode::kThrough); !status.is_ok()) return status;
            left = range.count - 1;
        }
        std::memcpy(out, bytes_of(index, pinned) + inside, count);
        out += count;
        return Status::ok();
    });
}

Status PageTable::write_parts(size_t offset, const void* source, size_t bytes) {
    const auto* in = static_cast<const std::byte*>(source);
    return for_each_page(offset, bytes, [&](size_t index, size_t inside, size_t count) {
        const std::byte* from = in;
        in += count;
        if (is_absent(index) && is_zero(from, count)) return Status::ok();
        if (pager_ && count == page_bytes_) forget_cold(index);
        WriteLease lease;
        if (Status status = this->lease(index * page_bytes_ + inside, count, &lease); !status.is_ok()) return status;
        std::memcpy(lease.data(), from, count);
        return Status::ok();
    });
}

Status PageTable::write(size_t offset, const void* source, size_t bytes) {
    // What may be larger than memory goes page by page.
    if (pager_) return finish(offset, bytes, write_parts(offset, source, bytes));
    std::vector<PageRange> needed;
    const auto* in = static_cast<const std::byte*>(source);
    (void)for_each_page(offset, bytes, [&](size_t index, size_t, size_t count) {
        if (!is_absent(index) || !is_zero(in, count)) needed.push_back({static_cast<int64_t>(index), 1});
        in += count;
        return Status::ok();
    });
    Status status = reserve(needed);
    if (status.is_ok()) status = write_parts(offset, source, bytes);
    return finish(offset, bytes, std::move(status));
}

Status PageTable::update(size_t offset, const void* source, size_t bytes) {
    const auto* in = static_cast<const std::byte*>(source);
    Status status = for_each_page(offset, bytes, [&](size_t index, size_t inside, size_t count) {
        const std::byte* from = in;
        in += count;
        const size_t at = index * page_bytes_ + inside;
        Pinned pinned;
        if (Status held = hold(index, PinMode::kKeep, &pinned); !held.is_ok()) return held;
        if (std::memcmp(bytes_of(index, pinned) + inside, from, count) == 0) return Status::ok();
        pinned.unpin();
        return write_parts(at, from, count);
    });
    // Success mends nothing: what is updated was read before.
    if (!status.is_ok()) mark_damaged(offset, bytes, status);
    return status;
}

Status PageTable::fill(size_t offset, uint8_t value, size_t bytes) {
    if (value == 0 && offset == 0 && bytes == this->bytes()) {
        clear();
        return Status::ok();
    }
    Status status = value == 0 || pager_ ? Status::ok() : reserve_bytes(offset, bytes);
    if (status.is_ok()) status = fill_parts(offset, value, bytes);
    return finish(offset, bytes, std::move(status));
}

Status PageTable::fill_parts(size_t offset, uint8_t value, size_t bytes) {
    return for_each_page(offset, bytes, [&](size_t index, size_t inside, size_t count) {
        if (value == 0 && is_absent(index)) return Status::ok();
        if (value == 0 && count == page_bytes_) {
            const PageRange page{static_cast<int64_t>(index), 1};
            release({&page, 1});
            return Status::ok();
        }
        if (pager_ && count == page_bytes_) forget_cold(index);
        WriteLease lease;
        if (Status leased = this->lease(index * page_bytes_ + inside, count, &lease); !leased.is_ok()) return leased;
        std::memset(lease.data(), value, count);
        return Status::ok();
    });
}

bool PageTable::is_unmade(size_t offset, size_t bytes) const {
    bool unmade = true;
    (void)for_each_page(offset, bytes, [&](size_t index, size_t, size_t) {
        unmade = unmade && is_absent(index);
        return Status::ok();
    });
    return unmade;
}

Status PageTable::copy(size_t offset, const PageTable& source, size_t from, size_t bytes) {
    Status status;
    if (!covers(offset, bytes) || !source.covers(from, bytes) ||
        (this == &source && offset < from + bytes && from < offset + bytes)) {
        status = Status::invalid_argument("copy of " + std::to_string(bytes) + " bytes from " + std::to_string(from) +
                                          " to " + std::to_string(offset) + ": outside of a table or overlapping");
    } else {
        status = copy_parts(offset, source, from, bytes);
    }
    status = finish(offset, bytes, std::move(status));
    const auto first = static_cast<int64_t>(from / source.row_bytes_);
    const auto end = static_cast<int64_t>((from + bytes + source.row_bytes_ - 1) / source.row_bytes_);
    if (status.is_ok() && source.is_damaged(first, end)) mark_damaged(offset, bytes, source.damage());
    return status;
}

Status PageTable::copy_parts(size_t offset, const PageTable& source, size_t from, size_t bytes) {
    while (bytes > 0) {
        const size_t index = from / source.page_bytes_;
        const size_t inside = from % source.page_bytes_;
        const size_t count = std::min({bytes, source.page_bytes_ - inside, page_bytes_ - offset % page_bytes_});
        Pinned pinned;
        Status status = source.hold(index, PinMode::kKeep, &pinned);
        if (!status.is_ok()) return status;
        if (this == &source && count == page_bytes_) {
            share(offset / page_bytes_, index);
        } else if (source.is_absent(index)) {
            status = fill_parts(offset, 0, count);
        } else {
            if (!is_reserved(static_cast<int64_t>(offset / page_bytes_))) status = reserve_bytes(offset, count);
            if (status.is_ok()) status = write_parts(offset, source.bytes_of(index, pinned) + inside, count);
        }
        if (!status.is_ok()) return status;
        offset += count;
        from += count;
        bytes -= count;
    }
    return Status::ok();
}

void PageTable::share(size_t to, size_t from) {
    const std::lock_guard lock(mutex_);
    const Slot slot = slots_[from].load(std::memory_order_relaxed);
    const Slot before = slots_[to].load(std::memory_order_relaxed);
    if (memory_of(slot) == memory_of(before) && before != kCold) return;
    reserve_dropped(to);
    if (slot != 0) {
        const auto [holders, is_new] = holders_.try_emplace(memory_of(slot), 1);
        ++holders->second;
        slots_[from].store(slot | kShared, std::memory_order_release);
    }
    stamp(to);
    replace(to, slot == 0 ? 0 : slot | kShared);
    stamp(to);
}

Status PageTable::finish(size_t offset, size_t bytes, Status status) noexcept {
    if (status.is_ok()) {
        mend(offset, bytes);
    } else {
        mark_damaged(offset, bytes, status);
    }
    return status;
}

}  // namespace atlas::kv
