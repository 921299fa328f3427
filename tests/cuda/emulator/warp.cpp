// Warp collectives: lanes meet at a gate and see each other's messages.
#include "emulator/engine.h"
#include "emulator/sanitizers.h"

namespace atlas::simt {

Slot* warp_exchange(unsigned mask, const void* data, int bytes, const char* what, Where where) {
    Fiber* fiber = me();
    if ((mask >> fiber->lane & 1) == 0) fail("warp operation by a lane outside its mask", where);
    Warp& warp = *engine.warps[fiber->warp];
    const auto first = static_cast<unsigned>(__builtin_ctz(mask));
    Gate& gate = warp.gates[first];
    if (gate.arrived == 0) {
        gate.mask = mask;
        gate.what = what;
    } else if (gate.mask != mask || gate.what != what) {
        fail("lanes of one mask meet in different warp operations", where);
    }
    Slot* slots = warp.slots[first][gate.parity];
    const auto* from = static_cast<const unsigned char*>(data);
    // No memcpy: it is the sanitizer's.
    for (int i = 0; i < bytes; ++i) slots[fiber->lane][i] = from[i];
    gate.waiting[gate.arrived++] = fiber;
    if (gate.arrived == static_cast<unsigned>(__builtin_popcount(mask))) {
        const unsigned n = gate.arrived;
        gate.arrived = 0;
        gate.parity ^= 1;  // a fast lane may be in the next collective while slow ones still read this one's slots
        if (!engine.seed) {
            make_ready(gate.waiting, n - 1);  // the last to come goes on
            return slots;
        }
        make_ready(gate.waiting, n);
    }
    wait(what, where);
    return slots;
}

void warp_barrier(unsigned mask, Where where) {
    const Fiber* fiber = me();
    const auto first = static_cast<unsigned>(__builtin_ctz(mask));
    void* const sync = sync_address(2 + 64 * fiber->warp + 2 * first + engine.warps[fiber->warp]->gates[first].parity);
    release(sync);
    warp_exchange(mask, nullptr, 0, "__syncwarp", where);
    acquire(sync);
}

}  // namespace atlas::simt
