#include "kv/paged_tensor.h"

#include <algorithm>
#include <cstring>

namespace atlas::kv {

PagedTensor::PagedTensor(PageArena& arena, size_t row_bytes, int64_t rows)
    : arena_(arena),
      row_bytes_(row_bytes),
      rows_(rows),
      page_bytes_(row_bytes * kPageRows),
      pages_(static_cast<size_t>((rows + kPageRows - 1) / kPageRows)),
      zeros_(page_bytes_),
      versions_(pages_.size()),
      chunk_versions_((pages_.size() + kChunkPages - 1) / kChunkPages),
      epochs_(pages_.size()),
      id_(next_id_.fetch_add(1)) {}

std::atomic<uint32_t> PagedTensor::clock_{1};
std::atomic<uint64_t> PagedTensor::next_id_{1};

PagedTensor::~PagedTensor() { clear(); }

template <typename Visit>
Status PagedTensor::for_each_page(size_t offset, size_t bytes, Visit visit) const {
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

void PagedTensor::read(size_t offset, void* destination, size_t bytes) const {
    auto* out = static_cast<std::byte*>(destination);
    (void)for_each_page(offset, bytes, [&](size_t index, size_t inside, size_t count) {
        std::memcpy(out, page(static_cast<int64_t>(index)) + inside, count);
        out += count;
        return Status::ok();
    });
}

Status PagedTensor::write(size_t offset, const void* source, size_t bytes) {
    const auto* in = static_cast<const std::byte*>(source);
    return for_each_page(offset, bytes, [&](size_t index, size_t inside, size_t count) {
        std::byte* memory = nullptr;
        if (Status status = writable(index * page_bytes_ + inside, &memory); !status.is_ok()) return status;
        std::memcpy(memory, in, count);
        in += count;
        return Status::ok();
    });
}

Status PagedTensor::update(size_t offset, const void* source, size_t bytes) {
    const auto* in = static_cast<const std::byte*>(source);
    return for_each_page(offset, bytes, [&](size_t index, size_t inside, size_t count) {
        const std::byte* from = in;
        in += count;
        if (std::memcmp(page(static_cast<int64_t>(index)) + inside, from, count) == 0) return Status::ok();
        return write(index * page_bytes_ + inside, from, count);
    });
}

Status PagedTensor::fill(size_t offset, uint8_t value, size_t bytes) {
    if (value == 0 && offset == 0 && bytes == this->bytes()) {
        clear();
        return Status::ok();
    }
    return for_each_page(offset, bytes, [&](size_t index, size_t inside, size_t count) {
        // Zeros on a page that does not exist are already there.
        if (value == 0 && pages_[index].load(std::memory_order_acquire) == nullptr) return Status::ok();
        std::byte* memory = nullptr;
        if (Status status = writable(index * page_bytes_ + inside, &memory); !status.is_ok()) return status;
        std::memset(memory, value, count);
        return Status::ok();
    });
}

bool PagedTensor::is_unmade(size_t offset, size_t bytes) const {
    bool unmade = true;
    (void)for_each_page(offset, bytes, [&](size_t index, size_t, size_t) {
        unmade = unmade && pages_[index].load(std::memory_order_acquire) == nullptr;
        return Status::ok();
    });
    return unmade;
}

void PagedTensor::clear() {
    const std::lock_guard lock(allocation_);
    generation_.fetch_add(1, std::memory_order_relaxed);
    for (auto& page : pages_) {
        if (std::byte* memory = page.exchange(nullptr)) arena_.release(memory, page_bytes_);
    }
    layout_.fetch_add(1, std::memory_order_release);
    for (size_t i = 0; i < pages_.size(); ++i) stamp(i);
}

Status PagedTensor::writable(size_t offset, std::byte** memory) {
    generation_.fetch_add(1, std::memory_order_relaxed);
    stamp(offset / page_bytes_);
    auto& page = pages_[offset / page_bytes_];
    std::byte* start = page.load(std::memory_order_acquire);
    if (start == nullptr) {
        const std::lock_guard lock(allocation_);
        start = page.load(std::memory_order_acquire);
        if (start == nullptr) {
            if (Status status = arena_.allocate(page_bytes_, &start); !status.is_ok()) return status;
            page.store(start, std::memory_order_release);
            layout_.fetch_add(1, std::memory_order_release);
        }
    }
    *memory = start + offset % page_bytes_;
    return Status::ok();
}

}  // namespace atlas::kv
