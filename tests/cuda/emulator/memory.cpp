// Shared memory, asynchronous copies, and fences.
#include <cstdint>
#include <cstring>

#include "emulator/engine.h"
#include "emulator/sanitizers.h"

namespace atlas::simt {

unsigned char* shared_memory() { return engine.shared; }

void* carve(unsigned char** at, size_t* used, size_t bytes, Where where) {
    const size_t room = (bytes + 15) / 16 * 16;
    *used += room;
    if (*used > engine.shared_bytes) fail("kernel carves more shared memory than its launch gives", where);
    unsigned char* piece = *at;
    unpoison(piece, bytes);
    poison(piece + bytes, room - bytes + kRedZone);
    *at += room + kRedZone;
    return piece;
}

void copy_async(void* to, const void* from, int bytes, int given, Where where) {
    Fiber* fiber = me();
    const auto size = static_cast<size_t>(bytes);
    if (reinterpret_cast<uintptr_t>(to) % size != 0 || (given > 0 && reinterpret_cast<uintptr_t>(from) % size != 0)) {
        fail("cp.async address not aligned", where);
    }
    if (fiber->copy_count == kMaxCopies) fail("more asynchronous copies than the emulator holds", where);
    fiber->copies[fiber->copy_count++] = {to, from, bytes, given};
    count_read(from, static_cast<size_t>(given), where);
    // The copy may happen at any time from now to the wait: a race with either end of that is a race. Until then the old bytes are gone.
    saw_read(from, static_cast<size_t>(given));
    saw_write(to, size);
    // Not always NaN: a kernel that mends what is not finite would hide that it read too soon. In f16, bf16 and f32 both are large.
    const uint32_t gone = engine.seed % 2 == 0 ? 0x7FFF7FFF : 0x7BF07BF0;
    auto* words = static_cast<uint32_t*>(to);
    for (size_t i = 0; i < size / 4; ++i) words[i] = gone;
}

void make_copies(Fiber* fiber, unsigned n) {
    for (unsigned i = 0; i < n; ++i) {
        const Copy& copy = fiber->copies[i];
        // The sanitizer's own memcpy, which sees an access of this thread at the wait.
        std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.given));
        std::memset(static_cast<char*>(copy.to) + copy.given, 0, static_cast<size_t>(copy.bytes - copy.given));
    }
    for (unsigned i = n; i < fiber->copy_count; ++i) fiber->copies[i - n] = fiber->copies[i];
    fiber->copy_count -= n;
}

void copy_commit() {
    Fiber* fiber = me();
    if (fiber->group_count == kMaxGroups) fail("more groups of copies than the emulator holds", Where::current());
    fiber->group_ends[fiber->group_count++] = fiber->copy_count;
}

void copy_wait(int groups_left) {
    Fiber* fiber = me();
    const auto left = static_cast<unsigned>(groups_left);
    if (fiber->group_count <= left) return;
    const unsigned done = fiber->group_count - left;
    const unsigned made = fiber->group_ends[done - 1];
    make_copies(fiber, made);
    for (unsigned i = done; i < fiber->group_count; ++i) fiber->group_ends[i - done] = fiber->group_ends[i] - made;
    fiber->group_count = left;
}

// PTX: a fence before an atomic operation makes it a release, one behind it an acquire.
void fence() {
    Fiber* fiber = me();
    if (fiber->last_atomic) acquire(const_cast<void*>(fiber->last_atomic));
    fiber->fenced = true;
}

int atomic_order(const void* address) {
    Fiber* fiber = me();
    fiber->last_atomic = address;
    return fiber->fenced ? __ATOMIC_RELEASE : __ATOMIC_RELAXED;
}

}  // namespace atlas::simt
