#include "allocations.h"

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <limits>
#include <new>

namespace {

constexpr long kNone = std::numeric_limits<long>::max();
std::atomic<long> g_used{0}, g_peak{0}, g_most{kNone};

void* allocate(size_t bytes, size_t alignment) {
    const long wanted = g_used + static_cast<long>(std::min<size_t>(bytes, size_t{1} << 60));
    if (wanted > g_peak) g_peak = wanted;
    if (wanted > g_most) throw std::bad_alloc();
    void* made = alignment > 16 ? std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment)
                                : std::malloc(bytes);
    if (!made) throw std::bad_alloc();
    g_used += static_cast<long>(malloc_usable_size(made));
    return made;
}

void release(void* from) {
    if (!from) return;
    g_used -= static_cast<long>(malloc_usable_size(from));
    std::free(from);
}

}  // namespace

void* operator new(size_t bytes) { return allocate(bytes, 0); }
void* operator new(size_t bytes, std::align_val_t alignment) { return allocate(bytes, static_cast<size_t>(alignment)); }
void* operator new(size_t bytes, const std::nothrow_t& /*tag*/) noexcept {
    try {
        return allocate(bytes, 0);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}
void operator delete(void* from, const std::nothrow_t& /*tag*/) noexcept { release(from); }
void operator delete(void* from) noexcept { release(from); }
void operator delete(void* from, size_t) noexcept { release(from); }
void operator delete(void* from, std::align_val_t) noexcept { release(from); }
void operator delete(void* from, size_t, std::align_val_t) noexcept { release(from); }

namespace atlas::test {

AllocationLimit::AllocationLimit(size_t most) {
    g_used = 0;
    g_peak = 0;
    g_most = static_cast<long>(most);
}

AllocationLimit::~AllocationLimit() { g_most = kNone; }

size_t AllocationLimit::peak() const { return static_cast<size_t>(g_peak.load()); }

}  // namespace atlas::test
