#include "kv/page_arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>

#include "base/options.h"

namespace atlas::kv {
namespace {

constexpr size_t kSlabBytes = size_t{4} << 20;
constexpr size_t kPageAlignment = 64;

std::atomic<uint64_t> g_bytes_in_use{0};

std::atomic<uint64_t>& budget_bytes() {
    static std::atomic<uint64_t> bytes{options().kv_ram_bytes};
    return bytes;
}

size_t padded(size_t bytes) { return (bytes + kPageAlignment - 1) / kPageAlignment * kPageAlignment; }

bool reserve_budget(uint64_t bytes) {
    const uint64_t limit = budget_bytes();
    const uint64_t before = g_bytes_in_use.fetch_add(bytes);
    if (limit == 0 || before + bytes <= limit) return true;
    g_bytes_in_use.fetch_sub(bytes);
    return false;
}

}  // namespace

uint64_t PageArena::bytes_in_use() { return g_bytes_in_use; }
void PageArena::set_budget(uint64_t bytes) { budget_bytes() = bytes; }
uint64_t PageArena::budget() { return budget_bytes(); }

PageArena::~PageArena() {
    for (const Slab& slab : slabs_) munmap(slab.memory, slab.bytes);
}

std::byte* PageArena::cut(size_t bytes) {
    Pages& pages = pages_[bytes];
    if (!pages.free.empty()) {
        std::byte* page = pages.free.back();
        pages.free.pop_back();
        std::memset(page, 0, bytes);
        return page;
    }
    // Room for its return, so that giving pages back cannot fail.
    if (pages.free.capacity() <= pages.cut) pages.free.reserve(2 * pages.cut + 16);
    if (slabs_.empty() || slab_used_ + bytes > slabs_.back().bytes) {
        const size_t slab_bytes = std::max(kSlabBytes, bytes);
        void* memory = mmap(nullptr, slab_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) return nullptr;
        madvise(memory, slab_bytes,
                MADV_HUGEPAGE);  // only a wish: fewer TLB misses while a whole cache is read per token
        try {
            slabs_.push_back({static_cast<std::byte*>(memory), slab_bytes});
        } catch (const std::bad_alloc&) {
            munmap(memory, slab_bytes);
            throw;
        }
        slab_used_ = 0;
    }
    std::byte* page = slabs_.back().memory + slab_used_;
    slab_used_ += bytes;
    ++pages.cut;
    return page;
}

Status PageArena::allocate(size_t bytes, std::byte** page) {
    const size_t size = padded(bytes);
    if (!reserve_budget(size)) {
        return Status::out_of_memory("KV page of " + std::to_string(size) +
                                     " bytes: " + std::to_string(bytes_in_use()) +
                                     " bytes of the budget ATLAS_KV_RAM=" + std::to_string(budget()) + " are in use");
    }
    const std::lock_guard lock(mutex_);
    try {
        *page = cut(size);
    } catch (const std::bad_alloc&) {
        *page = nullptr;
    }
    if (*page == nullptr) {
        g_bytes_in_use.fetch_sub(size);
        return Status::out_of_memory("KV page of " + std::to_string(size) + " bytes: the system has no memory left");
    }
    return Status::ok();
}

void PageArena::release(std::byte* page, size_t bytes) noexcept {
    const size_t size = padded(bytes);
    const std::lock_guard lock(mutex_);
    pages_.find(size)->second.free.push_back(page);
    g_bytes_in_use.fetch_sub(size);
}

}  // namespace atlas::kv
