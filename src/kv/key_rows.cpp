#include "kv/key_rows.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "kv/pager.h"

namespace atlas::kv {
namespace {

// A read costs a device about as much as 16 KiB more of it, and selected keys lie apart: more than these share a unit seldom.
constexpr size_t kLeastKeysPerUnit = 4;

size_t unit_bytes_of(size_t row_bytes) {
    return (kLeastKeysPerUnit * row_bytes + io::kIoAlignment - 1) / io::kIoAlignment * io::kIoAlignment;
}

}  // namespace

void PinnedRows::unpin() noexcept {
    if (KeyRows* owner = std::exchange(owner_, nullptr)) {
        const auto alone = owner->pager_.exclusive();
        for (const uint32_t slot : slots_) owner->cache_.unpin(slot);
    }
    slots_.clear();
    rows_.clear();
}

KeyRows::KeyRows(Pager& pager, RowCache& cache, const Shape& shape, int64_t pages)
    : pager_(pager),
      cache_(cache),
      shape_(shape),
      row_bytes_(row_bytes(shape)),
      unit_bytes_(unit_bytes_of(row_bytes_)),
      keys_per_unit_(std::min(unit_bytes_ / row_bytes_, static_cast<size_t>(kPageRows))),
      units_per_head_((kPageRows + keys_per_unit_ - 1) / keys_per_unit_),
      places_(*this),
      pages_(static_cast<size_t>(pages)) {
    const auto alone = pager_.exclusive();
    number_ = cache_.enter(&places_);
}

KeyRows::~KeyRows() {
    const auto alone = pager_.exclusive();
    pager_.finish_all_writes();
    for (size_t page = 0; page < pages_.size(); ++page) forget(static_cast<int64_t>(page));
    cache_.leave(number_);
}

void KeyRows::forget(int64_t number) noexcept {
    Page& page = pages_[static_cast<size_t>(number)];
    if (page.slots) {
        for (size_t cell = 0; cell < cells_of_page(); ++cell) {
            if (page.slots[cell] != RowCache::kNone) cache_.drop(page.slots[cell]);
        }
        page.slots.reset();
    }
    // What is being written is given back when that ends.
    if (page.state == State::kStored) pager_.release_rows(page.region, units_of_page() * unit_bytes_);
    page.state = State::kAbsent;
    page.region = {};
    page.checksums.reset();
}

void KeyRows::fill(const Page& page, std::byte* region, const Source& k, const Source& v) const {
    std::byte* unit = region;
    for (int64_t head = 0; head < shape_.heads; ++head) {
        for (size_t first = 0; first < kPageRows; first += keys_per_unit_, unit += unit_bytes_) {
            const size_t count = std::min(keys_per_unit_, static_cast<size_t>(kPageRows) - first);
            std::byte* row = unit;
            for (size_t cell = first; cell < first + count; ++cell, row += row_bytes_)
                copy_row({0, head, 0, &k, &v}, cell, row);
            std::memset(row, 0, static_cast<size_t>(unit + unit_bytes_ - row));
        }
    }
    for (size_t i = 0; i < units_of_page(); ++i)
        page.checksums[i] =
            DiskTier::checksum(region + i * unit_bytes_, unit_bytes_, page.region.offset + i * unit_bytes_);
}

void KeyRows::store(int64_t number, const Version& version, const Source& k, const Source& v) {
    const auto alone = pager_.exclusive();
    Page& page = pages_[static_cast<size_t>(number)];
    // Until an older one's write has ended its place is not known to be free.
    if (page.state == State::kWriting) pager_.finish_all_writes();
    forget(number);
    auto checksums = std::make_unique<uint64_t[]>(units_of_page());
    const size_t bytes = units_of_page() * unit_bytes_;
    DiskUnit region;
    std::byte* memory = pager_.begin_rows(bytes, &region);
    if (!memory) return;
    page.version = version;
    page.state = State::kWriting;
    page.region = region;
    page.checksums = std::move(checksums);
    fill(page, memory, k, v);
    pager_.write_rows(this, number);
}

void KeyRows::end_write(int64_t number, const DiskUnit& region, bool good) noexcept {
    Page& page = pages_[static_cast<size_t>(number)];
    const bool current = page.state == State::kWriting && page.region.offset == region.offset;
    if (good && current) {
        page.state = State::kStored;
        return;
    }
    if (good) pager_.release_rows(region, units_of_page() * unit_bytes_);
    if (current) {
        page.state = State::kAbsent;
        page.region = {};
    }
}

void KeyRows::finish_writing(std::span<const Wanted> wanted) {
    for (const Wanted& part : wanted) {
        if (!part.k && pages_[static_cast<size_t>(part.page)].state == State::kWriting)
            return pager_.finish_all_writes();
    }
}

void KeyRows::copy_row(const Wanted& from, size_t cell, std::byte* row) const {
    const auto at = static_cast<int64_t>(cell);
    std::memcpy(row, from.k->rows + from.head * from.k->head_stride + at * from.k->stride, shape_.k_bytes);
    std::memcpy(row + shape_.k_bytes, from.v->rows + from.head * from.v->head_stride + at * from.v->stride,
                shape_.v_bytes);
}

Status KeyRows::pin(std::span<const Wanted> wanted, PinnedRows* out) {
    out->unpin();
    const auto alone = pager_.exclusive();
    finish_writing(wanted);
    cache_.advance();
    Status status;
    try {
        status = pin_locked(wanted, out);
    } catch (const std::bad_alloc&) {
        status = Status::out_of_memory("rows of selected keys");
    }
    if (status.is_ok()) {
        for (const uint32_t slot : out->slots_) out->rows_.push_back(cache_.row(slot));
        out->owner_ = this;
        return status;
    }
    for (const uint32_t slot : out->slots_) cache_.unpin(slot);
    out->slots_.clear();
    // What was not read is not there. A row that was wanted twice is pinned twice, and missing once.
    for (const Missing& row : missing_) {
        uint32_t* slot = slot_of(row.place);
        if (*slot != row.slot) continue;
        *slot = RowCache::kNone;
        cache_.drop(row.slot);
    }
    // The page itself still lies on disk.
    for (const int64_t page : bad_) forget(page);
    return status;
}

Status KeyRows::pin_locked(std::span<const Wanted> wanted, PinnedRows* out) {
    missing_.clear();
    bad_.clear();
    size_t cells = 0;
    for (const Wanted& part : wanted) cells += static_cast<size_t>(std::popcount(part.cells));
    // Nothing below may fail between a slot that is taken and its note.
    out->slots_.reserve(cells);
    out->rows_.reserve(cells);
    missing_.reserve(cells);
    for (const Wanted& part : wanted) {
        Page& page = pages_[static_cast<size_t>(part.page)];
        if (page.state != State::kStored && !(part.k && page.state == State::kWriting))
            return Status::io("KV rows of page " + std::to_string(part.page) + ": they could not be written");
        if (!page.slots) {
            page.slots = std::make_unique_for_overwrite<uint32_t[]>(cells_of_page());
            std::fill_n(page.slots.get(), cells_of_page(), RowCache::kNone);
        }
        uint32_t* slots = page.slots.get() + part.head * kPageRows;
        const auto place = static_cast<uint32_t>(static_cast<size_t>(part.page) * cells_of_page() +
                                                 static_cast<size_t>(part.head * kPageRows));
        for (uint64_t left = part.cells; left != 0; left &= left - 1) {
            const auto cell = static_cast<uint32_t>(std::countr_zero(left));
            if (slots[cell] != RowCache::kNone) {
                cache_.use(slots[cell]);
            } else {
                const uint32_t slot = cache_.take(number_, place + cell);
                if (slot == RowCache::kNone)
                    return Status::out_of_memory("KV rows of " + std::to_string(cells) + " keys at once: no room");
                slots[cell] = slot;
                if (part.k) {
                    copy_row(part, cell, cache_.row(slot));
                } else {
                    missing_.push_back({out->slots_.size(), place + cell, slot});
                }
            }
            out->slots_.push_back(slots[cell]);
        }
    }
    pager_.count_rows(cells - missing_.size(), missing_.size());
    return missing_.empty() ? Status::ok() : read(missing_);
}

Status KeyRows::read(std::span<const Missing> missing) {
    std::span<std::byte> buffer;
    if (Status status = pager_.read_buffer(unit_bytes_, &buffer); !status.is_ok()) return status;
    const size_t most = buffer.size() / unit_bytes_;
    const auto unit_of = [&](uint32_t place) {
        const size_t inside = place % cells_of_page();
        return std::pair{place / cells_of_page(),
                         inside / kPageRows * units_per_head_ + inside % kPageRows / keys_per_unit_};
    };
    Status status;
    bad_.reserve(missing.size());
    for (size_t begin = 0; begin < missing.size() && status.is_ok();) {
        // Keys of a unit follow each other, unless several tokens want it.
        reads_.clear();
        reads_.reserve(most);
        size_t end = begin;
        std::pair<size_t, size_t> last{};
        for (; end < missing.size(); ++end) {
            const auto unit = unit_of(missing[end].place);
            if (end > begin && unit == last) continue;
            if (reads_.size() == most) break;
            last = unit;
            const Page& page = pages_[unit.first];
            UnitTransfer& read = reads_.emplace_back();
            read.unit = {page.region.offset + unit.second * unit_bytes_, page.checksums[unit.second]};
            read.memory = buffer.data() + (reads_.size() - 1) * unit_bytes_;
            read.bytes = unit_bytes_;
        }
        wanted_reads_.clear();
        for (UnitTransfer& read : reads_) wanted_reads_.push_back(&read);
        pager_.read_rows(wanted_reads_);
        size_t at = 0;
        for (size_t i = begin; i < end; ++i) {
            const auto unit = unit_of(missing[i].place);
            if (i > begin && unit != last) ++at;
            last = unit;
            if (!reads_[at].status.is_ok()) {
                status = reads_[at].status;
                bad_.push_back(static_cast<int64_t>(unit.first));
                continue;
            }
            const size_t inside = missing[i].place % kPageRows % keys_per_unit_;
            std::memcpy(cache_.row(missing[i].slot), reads_[at].memory + inside * row_bytes_, row_bytes_);
        }
        begin = end;
    }
    return status;
}

}  // namespace atlas::kv
