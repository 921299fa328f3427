#include "emulator/engine.h"

#include <cstdio>
#include <cstdlib>

#include "emulator/launch.h"
#include "emulator/sanitizers.h"

namespace atlas::simt {

Engine engine;
Thread* self = nullptr;

namespace {

constexpr size_t kSyncBytes = size_t{1} << 18;
constexpr size_t kSyncOfBlock = 2 + 64 * kMaxWarps;
char sync_pool[kSyncBytes];
char launch_sync;
char end_sync;

void go_to(Fiber* to) {
    Context* from = self ? &me()->context : &engine.main;
    engine.left = from;
    self = to;
    switch_to(from, to ? &to->context : &engine.main);
}

Fiber* next() { return engine.head != engine.tail ? engine.ready[engine.head++ % kMaxThreads] : nullptr; }

[[noreturn]] void deadlock() {
    const Thread& first = *engine.fibers[0];
    std::fprintf(stderr, "simt: deadlock in block (%u,%u,%u): not all threads reach the same barrier\n", first.block.x,
                 first.block.y, first.block.z);
    int shown = 0;
    for (unsigned i = 0; i < engine.threads && shown < 8; ++i) {
        const Fiber& fiber = *engine.fibers[i];
        if (fiber.done) continue;
        std::fprintf(stderr, "  thread %u waits in %s at %s:%u\n", fiber.index, fiber.waits_in, fiber.where.file_name(),
                     fiber.where.line());
        ++shown;
    }
    std::_Exit(kFaultStatus);
}

void entry() {
    arrived(engine.left);
    for (;;) {
        Fiber* fiber = me();
        if (fiber->launch != engine.launch) {
            acquire(&launch_sync);  // a launch comes after all that the host did
            fiber->launch = engine.launch;
        }
        engine.body(engine.context);
        make_copies(fiber, fiber->copy_count);
        fiber->done = true;
        --engine.alive;
        release(&end_sync);
        Fiber* other = next();
        if (!other && engine.alive) deadlock();
        go_to(other);  // returns when a later block takes this fiber
    }
}

Fiber* fiber_of(Fiber** set, unsigned slot) {
    if (!set[slot]) {
        set[slot] = new Fiber;
        make_context(&set[slot]->context, entry);
    }
    return set[slot];
}

void prepare_block(dim3 id, dim3 grid, dim3 block) {
    Engine& e = engine;
    const unsigned set = static_cast<unsigned>(e.blocks++ % kSets);
    e.fibers = e.sets[set];
    unpoison(e.arenas[set], e.arenas[set] ? e.arena_bytes : 0);
    e.arenas[set] = static_cast<unsigned char*>(new_memory(e.arenas[set], e.arena_bytes));
    e.shared = e.arenas[set];
    e.threads = e.alive = block.x * block.y * block.z;
    e.warp_count = (e.threads + 31) / 32;
    e.head = e.tail = e.arrived = e.votes = 0;
    e.sync_at += kSyncOfBlock;
    for (unsigned w = 0; w < e.warp_count; ++w) {
        if (!e.warps[w]) e.warps[w] = new Warp;
        for (Gate& gate : e.warps[w]->gates) gate.arrived = 0;
    }
    static unsigned order[kMaxThreads];
    for (unsigned i = 0; i < e.threads; ++i) order[i] = i;
    if (e.seed) e.random.shuffle(order, e.threads);
    for (unsigned slot = 0; slot < e.threads; ++slot) {
        Fiber& f = *fiber_of(e.fibers, slot);
        const unsigned t = order[slot];
        f.thread = {t % block.x, t / block.x % block.y, t / (block.x * block.y)};
        f.block = id;
        f.block_size = block;
        f.grid_size = grid;
        f.index = t;
        f.lane = t % 32;
        f.warp = t / 32;
        f.done = false;
        f.copy_count = f.group_count = 0;
        f.fenced = false;
        f.last_atomic = nullptr;
        e.ready[e.tail++] = &f;
    }
    // What no thread has written is NaN in f32, f16 and bf16.
    auto* words = reinterpret_cast<uint32_t*>(e.shared);
    for (size_t i = 0; i < e.arena_bytes / 4; ++i) words[i] = 0x7FFF7FFF;
}

}  // namespace

void make_ready(Fiber** fibers, unsigned n) {
    if (engine.seed) engine.random.shuffle(fibers, n);
    for (unsigned i = 0; i < n; ++i) engine.ready[engine.tail++ % kMaxThreads] = fibers[i];
}

void wait(const char* in, Where where) {
    Fiber* fiber = me();
    fiber->waits_in = in;
    fiber->where = where;
    Fiber* other = next();
    if (!other) deadlock();
    if (other != fiber) go_to(other);
}

void* sync_address(size_t which) { return &sync_pool[(engine.sync_at + which) % kSyncBytes]; }

void fail(const char* what, Where where) {
    std::fprintf(stderr, "simt: %s, thread %u of block (%u,%u,%u) at %s:%u\n", what, self->index, self->block.x,
                 self->block.y, self->block.z, where.file_name(), where.line());
    std::_Exit(kFaultStatus);
}

void set_seed(unsigned seed) {
    engine.seed = seed;
    engine.random.seed(seed);
}

void block_barrier(Where where) {
    Engine& e = engine;
    if (e.arrived > 0 && e.at_barrier[0]->where.line() != where.line()) {
        fail("threads of a block meet in different barriers", where);
    }
    void* const sync = sync_address(e.barriers & 1);
    release(sync);
    me()->where = where;
    e.at_barrier[e.arrived++] = me();
    if (e.arrived == e.threads) {
        ++e.barriers;
        e.arrived = 0;
        e.vote_result = e.votes;  // nobody reaches the next barrier before all have read it
        e.votes = 0;
        make_ready(e.at_barrier, e.threads);
    }
    wait("__syncthreads", where);
    acquire(sync);
}

unsigned block_count(bool value, Where where) {
    engine.votes += value;
    block_barrier(where);
    return engine.vote_result;
}

void run(dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void*), void* context) {
    Engine& e = engine;
    const unsigned threads = block.x * block.y * block.z;
    if (threads == 0 || threads > kMaxThreads) {
        std::fprintf(stderr, "simt: a block of %u threads: allowed are 1 to %u\n", threads, kMaxThreads);
        std::_Exit(kFaultStatus);
    }
    adopt_context(&e.main);
    e.body = body;
    e.context = context;
    ++e.launch;
    e.shared_bytes = shared_bytes;
    e.arena_bytes = (shared_bytes + 64 * kRedZone + 256) / 256 * 256;
    const unsigned blocks = grid.x * grid.y * grid.z;
    auto* order = new unsigned[blocks];
    for (unsigned i = 0; i < blocks; ++i) order[i] = i;
    if (e.seed) e.random.shuffle(order, blocks);
    release(&launch_sync);
    for (unsigned i = 0; i < blocks; ++i) {
        const unsigned b = order[i];
        prepare_block({b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)}, grid, block);
        go_to(next());
    }
    acquire(&end_sync);
    delete[] order;
    for (unsigned char*& arena : e.arenas) {
        if (!arena) continue;
        unpoison(arena, e.arena_bytes);
        new_memory(arena, 0);
        arena = nullptr;
    }
}

}  // namespace atlas::simt
