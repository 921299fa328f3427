#include "kv/ram_tier.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <string>

#include "io/block_io.h"
#include "kv/pager.h"
#include "kv/row_cache.h"

namespace atlas::kv {
namespace {

constexpr size_t kSlabBytes = size_t{4} << 20;
constexpr size_t kPageAlignment = 64;

}  // namespace

size_t RamTier::page_size(size_t bytes) const {
    const size_t alignment = pager_ ? io::kIoAlignment : kPageAlignment;
    return (bytes + alignment - 1) / alignment * alignment;
}

RamTier::RamTier(Budget& budget, Pager* pager) : budget_(budget), pager_(pager) {}

RowCache* RamTier::row_cache(size_t row_bytes, size_t frame_bytes) {
    const auto alone = pager_->exclusive();
    if (page_size(frame_bytes) < row_bytes) return nullptr;
    std::unique_ptr<RowCache>& cache = row_caches_[row_bytes];
    if (!cache) cache = std::make_unique<RowCache>(*pager_, *this, row_bytes, frame_bytes);
    return cache.get();
}

RamTier::~RamTier() {
    if (pager_) {
        const auto alone = pager_->exclusive();
        row_caches_.clear();
    }
    for (const Area& slab : slabs_) munmap(slab.memory, slab.bytes);
    for (const Area& area : zeros_) munmap(area.memory, area.bytes);
}

std::byte* RamTier::map(size_t bytes, int protection, std::vector<Area>* areas) {
    areas->reserve(areas->size() + 1);
    void* memory = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    areas->push_back({static_cast<std::byte*>(memory), bytes});
    return areas->back().memory;
}

std::byte* RamTier::cut(size_t bytes, bool zeroed) {
    Pages& pages = pages_[bytes];
    if (!pages.free.empty()) {
        std::byte* page = pages.free.back();
        pages.free.pop_back();
        if (zeroed) std::memset(page, 0, bytes);
        return page;
    }
    // Room for its return, so that giving pages back cannot fail.
    if (pages.free.capacity() <= pages.cut) pages.free.reserve(2 * pages.cut + 16);
    if (slabs_.empty() || slab_used_ + bytes > slabs_.back().bytes) {
        const size_t slab_bytes = std::max(kSlabBytes, bytes);
        std::byte* memory = map(slab_bytes, PROT_READ | PROT_WRITE, &slabs_);
        // Only a wish: fewer TLB misses while a whole cache is read per token.
        madvise(memory, slab_bytes, MADV_HUGEPAGE);
        slab_used_ = 0;
    }
    std::byte* page = slabs_.back().memory + slab_used_;
    slab_used_ += bytes;
    ++pages.cut;
    return page;
}

Status RamTier::allocate(size_t bytes, std::byte** page, bool zeroed) {
    const size_t size = page_size(bytes);
    if (!budget_.reserve(size))
        return Status::out_of_memory("KV page of " + std::to_string(size) + " bytes: " + budget_.to_string());
    const std::lock_guard lock(mutex_);
    try {
        *page = cut(size, zeroed);
        return Status::ok();
    } catch (const std::bad_alloc&) {
        budget_.release(size);
    }
    return Status::out_of_memory("KV page of " + std::to_string(size) + " bytes: the system has no memory left");
}

void RamTier::release(std::byte* page, size_t bytes) noexcept {
    const size_t size = page_size(bytes);
    const std::lock_guard lock(mutex_);
    pages_.find(size)->second.free.push_back(page);
    budget_.release(size);
}

void RamTier::add(PageHolder* holder) {
    const std::lock_guard lock(holders_mutex_);
    holders_.push_back(holder);
}

void RamTier::remove(PageHolder* holder) noexcept {
    const std::lock_guard lock(holders_mutex_);
    std::erase(holders_, holder);
}

bool RamTier::reclaim() {
    const std::lock_guard lock(holders_mutex_);
    bool any = false;
    for (PageHolder* holder : holders_) any = holder->reclaim() || any;
    return any;
}

const std::byte* RamTier::zeros(size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (zeros_.empty() || zeros_.back().bytes < bytes) map(bytes, PROT_READ, &zeros_);
    return zeros_.back().memory;
}

}  // namespace atlas::kv
