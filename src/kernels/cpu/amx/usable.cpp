#include <sys/syscall.h>
#include <unistd.h>

#include <cpuid.h>

#include "kernels/cpu/variant.h"
#include "kernels/cpu/amx/usable.h"

namespace atlas::kernels::cpu {
namespace {

bool ask() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
    constexpr unsigned kTiles = 1u << 24, kInt8 = 1u << 25, kBf16 = 1u << 22;
    if ((d & (kTiles | kInt8 | kBf16)) != (kTiles | kInt8 | kBf16)) return false;
    // Linux lends the state of tiles on request, to all threads of a process.
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

bool amx_usable() {
    static const bool granted = ask();
    // Not where a lesser set is forced.
    return granted && runs_on_sapphire_rapids();
}

}  // namespace atlas::kernels::cpu
