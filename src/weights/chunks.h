#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "weights/model_file.h"

namespace atlas::weights {

/** Rows of a weight that are read at once. Chunks begin at multiples of this, as kernels::kWeightPanel: results then do not depend on how a weight was cut. */
inline constexpr int64_t kChunkRows = 32;

/** A part of a weight: a range of its file, rounded outwards to what direct reads want. */
struct Chunk {
    const ModelFile* file = nullptr;
    uint64_t offset = 0;  ///< in the file
    size_t bytes = 0;     ///< both multiples of io::kIoAlignment; the last bytes may lie behind the file's end
    size_t needed = 0;    ///< of these up to the last row's end
    size_t head = 0;      ///< before the first row
    int64_t first_row = 0, rows = 0;

    std::byte* pinned = nullptr;  ///< its own memory, which it keeps; nullptr: it passes through the ring

    // What follows belongs to the Reader.
    std::atomic<const std::byte*> at{nullptr};  ///< where its bytes are, while they are there
    std::atomic<int64_t> rows_left{0};          ///< of this use
    int32_t slot = -1;                          ///< of the ring
    bool reading = false;                       ///< into `pinned`
    uint64_t used = ~uint64_t{0};               ///< turn of its last use that is over
};

/** A matrix of weights that is streamed. */
struct StreamedWeight {
    const std::byte* data = nullptr;  ///< where the host has it mapped
    size_t bytes = 0;
    std::vector<Chunk> chunks;  ///< in order of rows; none where kChunkRows rows are more than a chunk may have
    bool considered = false;    ///< for being pinned
};

/** Cuts rows that lie at `offset` of a file into chunks of at most `most` bytes, a multiple of io::kIoAlignment; none where kChunkRows rows do not fit. */
std::vector<Chunk> cut(const ModelFile* file, uint64_t offset, int64_t rows, size_t row_bytes, size_t most);

/**
 * A fixed subset of about `share` of the bytes of `chunks`, spread evenly, so that what is read lies between what is there: the disk is then never
 * without work. At most `room` bytes. Never what was used last: of a scan that goes round and is larger than memory, that finds nothing again.
 */
std::vector<Chunk*> choose_pinned(std::span<Chunk* const> chunks, double share, uint64_t room);

}  // namespace atlas::weights
