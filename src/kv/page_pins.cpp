#include "kv/page_pins.h"

#include <utility>

#include "kv/page_table.h"

namespace atlas::kv {

Pinned::Pinned(Pinned&& other) noexcept { *this = std::move(other); }

Pinned& Pinned::operator=(Pinned&& other) noexcept {
    if (this == &other) return *this;
    unpin();
    table_ = std::exchange(other.table_, nullptr);
    first_ = other.first_;
    addresses_ = std::move(other.addresses_);
    ranges_ = std::move(other.ranges_);
    frames_ = std::move(other.frames_);
    other.addresses_.clear();
    other.ranges_.clear();
    other.frames_.clear();
    return *this;
}

void Pinned::unpin() noexcept {
    if (const PageTable* table = std::exchange(table_, nullptr)) {
        table->unpin(ranges_);
        for (std::byte* frame : frames_) table->give_up_read(frame);
    }
    addresses_.clear();
    ranges_.clear();
    frames_.clear();
}

WriteLease::WriteLease(WriteLease&& other) noexcept { *this = std::move(other); }

WriteLease& WriteLease::operator=(WriteLease&& other) noexcept {
    if (this == &other) return *this;
    end();
    table_ = std::exchange(other.table_, nullptr);
    page_ = other.page_;
    data_ = std::exchange(other.data_, nullptr);
    return *this;
}

void WriteLease::end() noexcept {
    if (PageTable* table = std::exchange(table_, nullptr)) table->end_lease(page_);
    data_ = nullptr;
}

}  // namespace atlas::kv
