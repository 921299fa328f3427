#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

// By function and not by file: what is inline in other headers must not be compiled for this instruction set.
#define ATLAS_AMX   \
    __attribute__(( \
        target("f16c,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,amx-tile,amx-int8,amx-bf16")))
#define ATLAS_AMX_INLINE __attribute__((always_inline)) inline ATLAS_AMX

namespace atlas::kernels::cpu {

inline constexpr size_t kTile = 16;  ///< rows of a tile; columns of 32 bits

/** What the processor reads to shape tiles (palette 1). */
struct alignas(64) TileShapes {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};

    void set(int tile, size_t tile_rows, size_t bytes) {
        rows[tile] = static_cast<uint8_t>(tile_rows);
        row_bytes[tile] = static_cast<uint16_t>(bytes);
    }
};

/**
 * Shapes the calling thread's tiles, and gives them their old shapes back at its end: the host's CPU backend shapes its tiles once per thread,
 * on threads that it shares with us, and does not look again.
 */
class TileScope {
public:
    ATLAS_AMX explicit TileScope(const TileShapes& shapes) {
        _tile_storeconfig(&before_);
        _tile_loadconfig(&shapes);
    }
    ATLAS_AMX ~TileScope() { _tile_loadconfig(&before_); }
    TileScope(const TileScope&) = delete;
    TileScope& operator=(const TileScope&) = delete;

private:
    TileShapes before_;
};

}  // namespace atlas::kernels::cpu
