// What moves between device memory and a kernel: sectors per request of a warp.
#include <cstdint>
#include <unordered_map>
#include <unordered_set>

#include "emulator/engine.h"
#include "emulator/launch.h"

namespace atlas::simt {
namespace {

constexpr uintptr_t kSectorBytes = 32;

struct Hash {
    size_t operator()(uintptr_t value) const { return value * 0x9E3779B97F4A7C15u; }
};
using Set = std::unordered_set<uintptr_t, Hash>;

/** The requests of one place in the source by the lanes of the block that runs. */
struct Place {
    uint32_t times[kMaxThreads] = {};  ///< that a thread was there
    Set moved;                         ///< (warp, time, sector), as one number
};

struct Direction {
    uint64_t bytes = 0;
    Set touched;
    std::unordered_map<uintptr_t, Place, Hash> places;
    uint64_t block = 0;

    void count(const void* at, size_t n, Where where) {
        if (block != engine.blocks) {
            places.clear();
            block = engine.blocks;
        }
        const auto key =
            reinterpret_cast<uintptr_t>(where.file_name()) * 65536 + where.line() * 256 + where.column() % 256;
        Place& place = places[key];
        const uintptr_t time = place.times[self->index]++;
        const auto from = reinterpret_cast<uintptr_t>(at);
        for (uintptr_t sector = from / kSectorBytes; sector <= (from + n - 1) / kSectorBytes; ++sector) {
            touched.insert(sector);
            if (place.moved.insert((time * kMaxWarps + self->warp) << 40 ^ sector).second) bytes += kSectorBytes;
        }
    }
};
Direction* reads = nullptr;
Direction* writes = nullptr;

}  // namespace

void count_read(const void* from, size_t bytes, Where where) {
    if (reads && bytes > 0) reads->count(from, bytes, where);
}
void count_write(const void* to, size_t bytes, Where where) {
    if (writes && bytes > 0) writes->count(to, bytes, where);
}

void reset_traffic() {
    delete reads;
    delete writes;
    reads = new Direction;
    writes = new Direction;
}

Traffic traffic() {
    if (!reads) return {};
    const Traffic sum{reads->bytes, writes->bytes, reads->touched.size() * kSectorBytes,
                      writes->touched.size() * kSectorBytes};
    delete reads;
    delete writes;
    reads = writes = nullptr;
    return sum;
}

}  // namespace atlas::simt
