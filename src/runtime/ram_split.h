#pragma once

#include <cstdint>
#include <string>

namespace atlas::runtime {

/** Least bytes of ATLAS_RAM: weights can be streamed with a half of it. */
inline constexpr uint64_t kLeastRam = uint64_t{4} << 20;

/** What shares one number of bytes, in bytes. */
struct RamNeeds {
    uint64_t ram = 0;      ///< there are, kLeastRam or more
    uint64_t weights = 0;  ///< of models that are mapped, which can be streamed
    uint64_t kv = 0;       ///< of KV caches that are full, with their indexes if these are wanted
    uint64_t index = 0;    ///< of those: of indexes, which cannot leave memory
    uint64_t held = 0;     ///< in use for KV caches, indexes and memories
    uint64_t writes = 0;   ///< of the next graph into caches, new or over what is there
    bool disk = false;     ///< whether pages of KV caches can leave memory

    /** Whether all of it has room at the same time. */
    bool fit() const { return weights <= ram && kv <= ram - weights; }
    /** What the next graph may come to hold. */
    uint64_t used() const { return held > kv ? held + writes : writes > kv - held ? kv : held + writes; }
};

struct RamSplit {
    uint64_t weights = 0;   ///< that weights may take now
    uint64_t kv = 0;        ///< that is left for KV caches now; both together are ram
    uint64_t kv_limit = 0;  ///< that KV caches may take as they grow, whereupon weights give way; at least 1
    bool operator==(const RamSplit&) const = default;
};

/**
 * The rule, for the present state of needs:
 *  - What fits, fits: weights have all but what full KV caches take, which may also take what weights leave.
 *  - Else KV caches may take, without a disk, all that weights can do without, as a cache that has no room fails a graph; with one, what the weights leave,
 *    and a quarter in any case, or, up to a half, what their indexes take and a quarter of these.
 *  - What they may take they get as they grow, in sixteenths of ram, one or two of them ahead of need: until then weights have it. A byte of weights that
 *    stays saves a byte of each token, and memory for a cache that is empty saves none.
 */
RamSplit split_ram(const RamNeeds& needs);

/**
 * Whether `last`, made for the same needs but for what is held and written, still leaves room for these. What caches gave up since is not asked for: the
 * system gets its memory when they end.
 */
bool has_room(const RamSplit& last, const RamNeeds& needs);

/**
 * "ATLAS_RAM=8G: weights 6.1 GiB of 7.3 GiB, KV cache 1.9 GiB of 4.0 GiB", and behind it what comes of that where not all fits. `ram` as the user wrote it.
 */
std::string words_of(const RamSplit& split, const RamNeeds& needs, const std::string& ram);

}  // namespace atlas::runtime
