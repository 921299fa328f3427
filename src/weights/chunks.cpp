#include "weights/chunks.h"

#include <algorithm>

#include "io/block_io.h"

namespace atlas::weights {

std::vector<Chunk> cut(const ModelFile* file, uint64_t offset, int64_t rows, size_t row_bytes, size_t most) {
    if (rows <= 0 || row_bytes == 0) return {};
    // Both ends may be rounded outwards.
    const size_t room = most > 2 * io::kIoAlignment ? most - 2 * io::kIoAlignment : 0;
    const auto fitting = static_cast<int64_t>(room / row_bytes);
    if (fitting < std::min(rows, kChunkRows)) return {};
    // As few as can be, and of about the same size.
    const int64_t most_panels = std::max<int64_t>(fitting / kChunkRows, 1);
    const int64_t panels = (rows + kChunkRows - 1) / kChunkRows;
    const int64_t count = (panels + most_panels - 1) / most_panels;
    std::vector<Chunk> chunks(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
        Chunk& chunk = chunks[static_cast<size_t>(i)];
        chunk.file = file;
        chunk.first_row = panels * i / count * kChunkRows;
        chunk.rows = std::min(rows, panels * (i + 1) / count * kChunkRows) - chunk.first_row;
        const uint64_t begin = offset + static_cast<uint64_t>(chunk.first_row) * row_bytes;
        const uint64_t end = begin + static_cast<uint64_t>(chunk.rows) * row_bytes;
        chunk.offset = begin / io::kIoAlignment * io::kIoAlignment;
        chunk.head = begin - chunk.offset;
        chunk.needed = end - chunk.offset;
        chunk.bytes = (chunk.needed + io::kIoAlignment - 1) / io::kIoAlignment * io::kIoAlignment;
    }
    return chunks;
}

std::vector<Chunk*> choose_pinned(std::span<Chunk* const> chunks, double share, uint64_t room) {
    std::vector<Chunk*> chosen;
    double due = 0.0;
    for (Chunk* chunk : chunks) {
        due += share * static_cast<double>(chunk->bytes);
        // Half a chunk early, so that the last of all chunks is chosen where the share is 1.
        if (due < static_cast<double>(chunk->bytes) / 2 || chunk->bytes > room) continue;
        due -= static_cast<double>(chunk->bytes);
        room -= chunk->bytes;
        chosen.push_back(chunk);
    }
    return chosen;
}

}  // namespace atlas::weights
