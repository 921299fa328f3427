#pragma once

// A CUDA multiprocessor on one thread of the CPU, for kernels written in the words of kernels/cuda/simt.h. Blocks run one after another,
// the threads of a block are fibers that change at barriers and collectives, in order or at random by seed (launch.h). Where CUDA leaves
// something open, the emulator does the worst: shared memory starts as NaN, an asynchronous copy arrives at its wait and its target is NaN
// or large until then, a collective orders no memory. It ends the program at divergent barriers, wrong masks, mismatched collectives, misaligned
// accesses and too much shared memory; compiled with AddressSanitizer it sees overruns, with ThreadSanitizer (fibers are its threads,
// blocks are unordered) missing barriers and fences. It knows no caches, no timing, and none of wgmma, TMA, mbarrier, clusters.

#include "emulator/launch.h"
#include "emulator/mma.h"
#include "emulator/vocabulary.h"
