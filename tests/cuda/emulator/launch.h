#pragma once

#include <cstddef>
#include <cstdint>

#include "emulator/names.h"

namespace atlas::simt {

/** How blocks and threads take turns: 0 in order, others at random, the same way for the same seed. */
void set_seed(unsigned seed);

/**
 * Traffic with device memory since reset_traffic(), through the vocabulary, in bytes of whole sectors of 32. A request is what the lanes of a warp ask for at
 * one place of the source for the n-th time: each sector of it moves once. `touched` counts a sector once for the whole launch, as if the caches held
 * everything.
 */
struct Traffic {
    uint64_t read = 0, written = 0;
    uint64_t touched_by_reads = 0, touched_by_writes = 0;
};
void reset_traffic();
/** Ends the count. Not under ThreadSanitizer, which would take the counters for something that threads share. */
Traffic traffic();

/** Runs body(context) once per thread of the grid; returns when all blocks are done. Not reentrant. */
void run(dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void*), void* context);

/** Launches a kernel with one argument, as the driver does with the struct that a launch points at. */
template <class Argument>
void launch(void (*kernel)(Argument), dim3 grid, dim3 block, size_t shared_bytes, const Argument& argument) {
    struct Call {
        void (*kernel)(Argument);
        const Argument* argument;
    } call{kernel, &argument};
    run(
        grid, block, shared_bytes,
        [](void* context) {
            const auto* c = static_cast<Call*>(context);
            c->kernel(*c->argument);
        },
        &call);
}

}  // namespace atlas::simt
