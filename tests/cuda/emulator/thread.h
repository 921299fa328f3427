#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>

#include "emulator/names.h"

namespace atlas::simt {

using Where = std::source_location;

/** What a kernel may ask about the thread that runs it. */
struct Thread {
    dim3 thread, block, block_size, grid_size;
    unsigned index = 0;  ///< in its block
    unsigned lane = 0;   ///< index % 32
    unsigned warp = 0;   ///< index / 32
};

/** The thread that runs; nullptr outside of kernels. The emulator lives on one thread of the operating system. */
extern Thread* self;

/** The exit status of a program whose kernel is at fault. */
inline constexpr int kFaultStatus = 70;

/** Ends the program with "simt: WHAT, thread …, FILE:LINE": a fault of a kernel that the emulator itself sees. */
[[noreturn]] void fail(const char* what, Where where);

/** Largest message of a lane in one collective. */
inline constexpr int kSlotBytes = 64;
using Slot = unsigned char[kSlotBytes];

// --- what the vocabulary (vocabulary.h, mma.h) is made of ---

void block_barrier(Where where);
/** How many threads of the block give a value other than 0. */
unsigned block_count(bool value, Where where);
/**
 * Leaves `bytes` of data for the lanes of `mask`, waits for all of them and returns the 32 slots of their data, which stay until this
 * lane's next collective. Fails where lanes of one mask meet in different collectives. Orders no memory, as in CUDA.
 */
Slot* warp_exchange(unsigned mask, const void* data, int bytes, const char* what, Where where);
/** warp_exchange of nothing that also orders memory among the lanes: __syncwarp. */
void warp_barrier(unsigned mask, Where where);

/** Shared memory of the block. */
unsigned char* shared_memory();
/** `bytes` at *at and moves *at behind them; `used` is what of the launch's shared memory that takes up to now. */
void* carve(unsigned char** at, size_t* used, size_t bytes, Where where);

/** cp.async: `given` bytes out of `from`, then zeros up to `bytes`. Until the wait, what `to` holds is not defined: NaN here, or large. */
void copy_async(void* to, const void* from, int bytes, int given, Where where);
void copy_commit();
void copy_wait(int groups_left);

void fence();
/** The order that an atomic operation of this thread has for ThreadSanitizer: relaxed unless a fence came before. */
int atomic_order(const void* address);

/** Counts what a kernel reads and writes of device memory through the vocabulary, for launch.h's traffic(). */
void count_read(const void* from, size_t bytes, Where where);
void count_write(const void* to, size_t bytes, Where where);

}  // namespace atlas::simt
