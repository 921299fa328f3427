#include "host/buffers/owner_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <new>
#include <string>
#include <string_view>

#include "host/graph/op_kind.h"

namespace atlas::host {
namespace {

// Tensors start on their own memory pages, so that one can be made accessible without its neighbour.
constexpr size_t kAlignment = 4096;
constexpr std::string_view kCachePrefixes[] = {"cache_k", "cache_v"};

size_t round_up(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

bool has_cache_name(const ggml_tensor* tensor) {
    const std::string_view name(tensor->name);
    return std::any_of(std::begin(kCachePrefixes), std::end(kCachePrefixes),
                       [&](std::string_view prefix) { return name.starts_with(prefix); });
}

bool wants_pages(const ggml_tensor* tensor, bool page_all) {
    // What an operation makes of a cache is named after it ("cache_k_l0 (view) (copy)"), and read by pointer.
    if (tensor->op != GGML_OP_NONE || tensor->view_src || !ggml_is_contiguous(tensor)) return false;
    return has_cache_name(tensor) || (page_all && tensor->ne[1] > 1);
}

std::string words_of(const ggml_tensor* tensor) {
    return "tensor '" + std::string(tensor->name) + "' of " + std::to_string(ggml_nbytes(tensor)) + " bytes";
}

}  // namespace

// An index takes a tenth of what its keys and values would as f16, of whatever type they are: two bits per element of a key, scales, and a mean value.
OwnerMemory::Table::Table(kv::Budget& budget, kv::RamTier& tier, kv::WriteClock& clock, const ggml_tensor* tensor)
    : pages(tier, clock, tensor->nb[1], static_cast<int64_t>(ggml_nbytes(tensor) / tensor->nb[1])),
      claim(budget, static_cast<uint64_t>(pages.pages()) * tier.page_size(pages.page_bytes()),
            static_cast<uint64_t>(ggml_nelements(tensor)) / 5) {}

OwnerMemory::OwnerMemory(size_t bytes, kv::Budget& budget, kv::Pager* pager, kv::WriteClock& clock)
    : budget_(budget), clock_(clock), tier_(budget, pager), reserved_(round_up(std::max<size_t>(bytes, 1))) {
    void* base = mmap(nullptr, reserved_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base != MAP_FAILED) base_ = static_cast<std::byte*>(base);
}

OwnerMemory::~OwnerMemory() {
    if (base_) munmap(base_, reserved_);
}

bool OwnerMemory::contains(const void* address, size_t bytes) const {
    // As numbers: pointers into different objects have no order.
    const auto at = reinterpret_cast<uintptr_t>(address), begin = reinterpret_cast<uintptr_t>(base_);
    return base_ && at >= begin && at - begin <= reserved_ && bytes <= reserved_ - (at - begin);
}

bool OwnerMemory::open_all() {
    const std::lock_guard lock(mutex_);
    if (all_ordinary_) return true;
    // A table's part stays inaccessible.
    std::byte* begin = base_;
    for (const auto& [address, table] : tables_) {
        std::byte* table_begin = base_ + (address - base_);
        if (begin < table_begin && !open(begin, static_cast<size_t>(table_begin - begin)).is_ok()) return false;
        begin = table_begin + round_up(table->pages.bytes());
    }
    if (begin < base_ + reserved_ && !open(begin, static_cast<size_t>(base_ + reserved_ - begin)).is_ok()) return false;
    ordinary_.clear();
    all_ordinary_ = true;
    changed();
    return true;
}

Status OwnerMemory::open(std::byte* begin, size_t bytes) {
    if (mprotect(begin, bytes, PROT_READ | PROT_WRITE) == 0) return Status::ok();
    return Status::out_of_memory("buffer of " + std::to_string(reserved_) + " bytes: the system gave no memory for " +
                                 std::to_string(bytes) + " of them");
}

bool OwnerMemory::overlaps_table(const std::byte* begin, size_t bytes) const {
    return std::any_of(tables_.begin(), tables_.end(), [&](const auto& entry) {
        return entry.first < begin + bytes && begin < entry.first + round_up(entry.second->pages.bytes());
    });
}

bool OwnerMemory::forget_overlapping(const std::byte* begin, size_t bytes) {
    if (!overlaps_table(begin, bytes)) return false;
    std::erase_if(tables_, [&](const auto& entry) {
        return entry.first < begin + bytes && begin < entry.first + round_up(entry.second->pages.bytes());
    });
    changed();
    return true;
}

Status OwnerMemory::add_ordinary(const ggml_tensor* tensor) {
    std::byte* begin = static_cast<std::byte*>(tensor->data);
    const size_t bytes = std::min(round_up(ggml_nbytes(tensor)), static_cast<size_t>(base_ + reserved_ - begin));
    const bool took_over = forget_overlapping(begin, bytes);
    if (all_ordinary_ && !took_over) return Status::ok();
    if (tables_.empty() && !took_over) {
        // The usual case, a compute buffer: open it whole, once, instead of asking the kernel per tensor.
        if (Status status = open(base_, reserved_); !status.is_ok()) return status;
        all_ordinary_ = true;
        return Status::ok();
    }
    // mprotect takes whole pages of memory: a tensor that begins inside one was put there together with its neighbours.
    std::byte* page = base_ + static_cast<size_t>(begin - base_) / kAlignment * kAlignment;
    if (Status status = open(page, static_cast<size_t>(begin + bytes - page)); !status.is_ok()) return status;
    if (all_ordinary_) return Status::ok();
    size_t& known = ordinary_[begin];
    if (known < bytes) changed();
    known = std::max(known, bytes);
    return Status::ok();
}

Status OwnerMemory::add(const ggml_tensor* tensor, bool page_all) {
    const std::lock_guard lock(mutex_);
    return add_locked(tensor, page_all);
}

Status OwnerMemory::add_locked(const ggml_tensor* tensor, bool page_all) {
    const size_t bytes = ggml_nbytes(tensor);
    if (!contains(tensor->data, bytes))
        return Status::invalid_argument(words_of(tensor) + ": not inside its buffer of " + std::to_string(reserved_));
    auto* address = static_cast<std::byte*>(tensor->data);
    if (bytes == 0) return Status::ok();
    if (!wants_pages(tensor, page_all)) return add_ordinary(tensor);
    // Ordinary memory that another tensor has must stay accessible to it.
    const auto overlaps = [&](const auto& entry) {
        return entry.first < address + bytes && address < entry.first + entry.second;
    };
    if (std::any_of(ordinary_.begin(), ordinary_.end(), overlaps)) return add_ordinary(tensor);
    const size_t row_bytes = tensor->nb[1];
    const auto rows = static_cast<int64_t>(bytes / row_bytes);
    const auto found = tables_.find(address);
    if (found != tables_.end() && found->second->pages.row_bytes() == row_bytes && found->second->pages.rows() == rows)
        return Status::ok();
    forget_overlapping(address, bytes);
    tables_[address] = std::make_unique<Table>(budget_, tier_, clock_, tensor);
    changed();
    if (all_ordinary_) mprotect(address, round_up(bytes), PROT_NONE);
    return Status::ok();
}

const OwnerMemory::Regions& OwnerMemory::regions() {
    if (const Regions* known = published_.load(std::memory_order_acquire)) return *known;
    const std::lock_guard lock(mutex_);
    if (const Regions* known = published_.load(std::memory_order_acquire)) return *known;
    auto regions = std::make_unique<Regions>();
    regions->reserve(tables_.size() + ordinary_.size());
    for (const auto& [address, table] : tables_)
        regions->push_back({address, address + round_up(table->pages.bytes()), &table->pages});
    for (const auto& [address, bytes] : ordinary_) regions->push_back({address, address + bytes, nullptr});
    std::sort(regions->begin(), regions->end(), [](const Region& a, const Region& b) { return a.begin < b.begin; });
    made_.reserve(made_.size() + 1);
    made_.push_back(std::move(regions));
    published_.store(made_.back().get(), std::memory_order_release);
    return *made_.back();
}

const OwnerMemory::Region* OwnerMemory::region_at(const Regions& regions, const std::byte* address) {
    auto above = std::upper_bound(regions.begin(), regions.end(), address,
                                  [](const std::byte* a, const Region& region) { return a < region.begin; });
    if (above == regions.begin()) return nullptr;
    const Region& region = *std::prev(above);
    return address < region.end ? &region : nullptr;
}

Status OwnerMemory::find(const ggml_tensor* tensor, bool page_all, Placement* out) {
    const auto* address = static_cast<const std::byte*>(tensor->data);
    *out = {};
    for (const bool added : {false, true}) {
        if (const Region* region = region_at(regions(), address)) {
            if (region->table) *out = {region->table, static_cast<size_t>(address - region->begin)};
            return Status::ok();
        }
        if (all_ordinary_.load(std::memory_order_acquire) && contains(address, 0)) return Status::ok();
        if (added) break;
        const ggml_tensor* root = root_of(tensor);
        const ggml_tensor* owner = contains(root->data, 0) ? root : tensor;
        const size_t bytes = ggml_nbytes(owner);
        if (bytes == 0) return Status::ok();
        const std::lock_guard lock(mutex_);
        if (contains(owner->data, bytes) && overlaps_table(static_cast<const std::byte*>(owner->data), bytes)) break;
        if (Status status = add_locked(owner, page_all); !status.is_ok()) return status;
    }
    return Status::invalid_argument(words_of(tensor) + ": neither inside a tensor of its buffer nor beside them");
}

Status OwnerMemory::fill(uint8_t value) {
    const std::lock_guard lock(mutex_);
    Status result;
    for (auto& [address, table] : tables_) {
        Status status;
        try {
            status = table->pages.fill(0, value, table->pages.bytes());
        } catch (const std::bad_alloc&) {
            status = Status(StatusCode::kOutOfMemory, {});
            table->pages.mark_damaged(0, table->pages.bytes(), status);
        }
        if (!status.is_ok() && result.is_ok()) result = std::move(status);
    }
    for (const auto& [address, bytes] : ordinary_) std::memset(base_ + (address - base_), value, bytes);
    if (!all_ordinary_) {
        // Nothing lies in the buffer yet. Fresh memory is zero already; anything else has to be written now.
        if (value == 0 || !tables_.empty() || !ordinary_.empty()) return result;
        if (Status status = open(base_, reserved_); !status.is_ok()) return status;
        all_ordinary_ = true;
        changed();
    }
    std::byte* begin = base_;
    for (const auto& [address, table] : tables_) {
        if (begin < address) std::memset(begin, value, static_cast<size_t>(address - begin));
        begin = base_ + (address - base_) + round_up(table->pages.bytes());
    }
    if (begin < base_ + reserved_) std::memset(begin, value, static_cast<size_t>(base_ + reserved_ - begin));
    return result;
}

}  // namespace atlas::host
