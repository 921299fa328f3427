#pragma once

#include <cstddef>
#include <cstdint>

#include "emulator/fiber.h"
#include "emulator/thread.h"

// The emulator's own state, for its .cpp files alone. No containers of the standard library: their functions could be merged with those of a
// kernel's file, which are instrumented.

namespace atlas::simt {

inline constexpr unsigned kMaxThreads = 1024;
inline constexpr unsigned kMaxWarps = kMaxThreads / 32;
inline constexpr unsigned kMaxCopies = 512;
inline constexpr unsigned kMaxGroups = 16;

/** Blocks take turns on so many sets of fibers: to ThreadSanitizer, what two blocks do is unordered unless they share a set. */
#ifdef SIMT_RUNTIME_TSAN
inline constexpr unsigned kSets = 3;
#else
inline constexpr unsigned kSets = 1;
#endif

/** Not <random>, for the reason above. */
class Random {
public:
    void seed(uint64_t seed) { state_ = seed * 7919 + 1; }
    uint32_t draw() {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return static_cast<uint32_t>(state_ >> 33 ^ state_ >> 60);
    }
    template <class T>
    void shuffle(T* items, size_t n) {
        for (size_t i = n; i > 1; --i) {
            const size_t j = draw() % i;
            T other = items[i - 1];
            items[i - 1] = items[j];
            items[j] = other;
        }
    }

private:
    uint64_t state_ = 1;
};

struct Copy {
    void* to;
    const void* from;
    int bytes, given;
};

struct Fiber : Thread {
    Context context;
    bool done = true;
    const char* waits_in = nullptr;
    Where where;
    unsigned launch = 0;
    Copy copies[kMaxCopies];  ///< asynchronous, not yet made
    unsigned copy_count = 0;
    unsigned group_ends[kMaxGroups];  ///< of committed groups, in copies
    unsigned group_count = 0;
    bool fenced = false;
    const void* last_atomic = nullptr;
};

/** Where the lanes of one mask meet. */
struct Gate {
    unsigned arrived = 0, mask = 0, parity = 0;
    const char* what = nullptr;
    Fiber* waiting[32];
};

struct Warp {
    Gate gates[32];  ///< by the lowest lane of the mask
    Slot slots[32][2][32];
};

struct Engine {
    Fiber* sets[kSets][kMaxThreads] = {};
    Fiber** fibers = nullptr;  ///< those of the block that runs
    Warp* warps[kMaxWarps] = {};
    unsigned threads = 0, alive = 0, warp_count = 0;
    Fiber* ready[kMaxThreads];  ///< a ring: a fiber is in it at most once
    unsigned head = 0, tail = 0;
    Fiber* at_barrier[kMaxThreads];
    unsigned arrived = 0, votes = 0, vote_result = 0;
    uint64_t barriers = 0, blocks = 0;
    Context main;
    Context* left = nullptr;            ///< the context of the last switch
    unsigned char* arenas[kSets] = {};  ///< shared memory of the last block of each set
    size_t arena_bytes = 0;
    unsigned char* shared = nullptr;  ///< of the block that runs
    size_t shared_bytes = 0;
    void (*body)(void*) = nullptr;
    void* context = nullptr;
    unsigned launch = 0;
    unsigned seed = 0;
    Random random;
    size_t sync_at = 0;
};

extern Engine engine;

inline Fiber* me() { return static_cast<Fiber*>(self); }

/** Makes fibers ready, in order or at random. */
void make_ready(Fiber** fibers, unsigned n);
/** Lets others run until this fiber is made ready. Ends the program where nobody is ready: a deadlock. */
void wait(const char* in, Where where);

/** Addresses for happens-before, some per block so that no earlier block orders this one; `which` < 2 + 64 · kMaxWarps. */
void* sync_address(size_t which);

/** Makes the first n copies of a fiber. */
void make_copies(Fiber* fiber, unsigned n);

}  // namespace atlas::simt
