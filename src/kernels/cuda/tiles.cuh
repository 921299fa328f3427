#pragma once

#include "kernels/cuda/stream.cuh"

// Attention of many rows (prompts, large groups) on tensor cores: 16 rows per warp, keys in tiles of shared memory, of which the next is on
// its way while one is multiplied. Products are of f16 with sums in f32: queries, weights and dequantised keys are rounded to 11 bits.
//
// A page is staged first: which of its cells each row sees. Pages that no row sees are not fetched.

namespace atlas::kernels::cuda {

/** A constant: device code may not call queries_shared. */
template <int kHead>
inline constexpr bool kQueriesShared = queries_shared<kHead>();

/** A tile of keys: part `part` of page number `page`; none where page is the range's end. */
struct Tile {
    uint32_t page;
    int part;
};

/** What the threads of a block share while they work on tiles. */
template <int kHead, int kWarps>
struct TileBlock {
    static constexpr int kKeys = tile_keys<kHead>();
    static constexpr int kParts = kPageKeys / kKeys;
    static constexpr int kPitch = kHead + kTilePad;
    static constexpr int kRows = kWarps * 16;
    static constexpr int kThreads = kWarps * 32;

    const AttentionArguments& a;
    ListPlace place;
    PageList list;
    PageRange range;
    int first_row;
    uint16_t* tiles;    ///< [stage][K, V][kKeys][kPitch]
    uint16_t* queries;  ///< [kRows][kPitch] where queries_shared
    uint16_t* masks;    ///< [2][kRows][kMaskPitch]: of the page that is multiplied and of the next
    int staged;         ///< which of the two was written last
    unsigned
        plain;  ///< bit i: of masks[i], every row sees every cell, without a bias (no array: that would lie in local memory)

    SIMT_DEVICE uint16_t* stage(int tile_number) { return tiles + tile_number % kTileStages * 2 * kKeys * kPitch; }

    /** Whether any row sees a cell of this page; its mask is then staged. All threads call it, for the same page. */
    SIMT_DEVICE bool stage_page(uint32_t at) {
        constexpr uint16_t kHidden = 0xFC00;
        const Page page = read_page(a.pages + at);
        if (page.cells == 0) return false;
        const int buffer = staged ^ 1;
        if (!a.mask && page.cells == ~uint64_t{0}) {
            set_staged(buffer, true);
            return true;
        }
        bool sees = false;
        bool mixed = false;
        for (int i = static_cast<int>(threadIdx.x); i < kRows * kPageKeys; i += kThreads) {
            const int row = i / kPageKeys;
            const int cell = i % kPageKeys;
            uint16_t bias = kHidden;
            if (first_row + row < place.rows) {
                if (page.cells >> cell & 1) {
                    const uint16_t* mask = mask_of(a, row_of(place, first_row + row));
                    bias = mask ? simt::read(mask + page.key + cell) : uint16_t{0};
                }
                sees |= bias != kHidden;
                mixed |= (bias & 0x7FFF) != 0;
            }
            masks[(buffer * kRows + row) * kMaskPitch + cell] = bias;
        }
        // The votes are barriers too: what is written above is seen below, and a page that nobody sees may be overwritten.
        if (!__syncthreads_or(sees)) return false;
        set_staged(buffer, !__syncthreads_or(mixed));
        return true;
    }
    SIMT_DEVICE void set_staged(int buffer, bool is_plain) {
        staged = buffer;
        plain = (plain & ~(1u << buffer)) | static_cast<unsigned>(is_plain) << buffer;
    }
    SIMT_DEVICE bool is_plain(int buffer) const { return (plain >> buffer & 1) != 0; }

    /** The first tile at or behind `tile` that somebody sees. All threads call it. */
    SIMT_DEVICE Tile first_visible(Tile tile) {
        while (tile.page < range.end) {
            if (tile.part > 0 || stage_page(tile.page)) {
                const uint64_t cells = read_page(a.pages + tile.page).cells;
                for (; tile.part < kParts; ++tile.part) {
                    if (cells >> (tile.part * kKeys) & ((uint64_t{1} << kKeys) - 1)) return tile;
                }
            }
            tile = {tile.page + 1, 0};
        }
        return {range.end, 0};
    }

    /** Requests a tile: cells that are not there, and elements behind the head's, become zeros. */
    SIMT_DEVICE void fetch(const Tile& tile, uint16_t* to) {
        const Page page = read_page(a.pages + tile.page);
        constexpr int kPieces = kHead / 8;  // of 16 bytes of f16
        for (int i = static_cast<int>(threadIdx.x); i < 2 * kKeys * kPieces; i += kThreads) {
            const bool value = i >= kKeys * kPieces;
            const int key = i / kPieces % kKeys;
            const int piece = i % kPieces;
            const int cell = tile.part * kKeys + key;
            const bool there = (page.cells >> cell & 1) != 0 && piece * 8 < (value ? a.d_v : a.d_k);
            const unsigned char* row =
                value ? page.v + list.v_offset + cell * a.v_stride : page.k + list.k_offset + cell * a.k_stride;
            uint16_t* place_of_piece = to + ((value ? kKeys : 0) + key) * kPitch + piece * 8;
            const RowType type = value ? a.v_type : a.k_type;
            if (type == RowType::kF16) {
                simt::copy16(place_of_piece, row + 16 * piece, there);
            } else {
                widen_piece(type, row, piece, there, place_of_piece);
            }
        }
    }

    /** Eight elements of a row in blocks, as f16. */
    SIMT_DEVICE void widen_piece(RowType type, const unsigned char* row, int piece, bool there, uint16_t* to) {
        uint32_t packed[4] = {};
        if (there) {
            const int bytes = type == RowType::kQ8_0 ? 34 : 18;
            const unsigned char* block = row + piece / 4 * bytes;
            const float scale = simt::half_to_float(simt::read(reinterpret_cast<const uint16_t*>(block)));
            // Element e of a block of q4_0 is in byte e % 16, in its high half from 16 on.
            const int first = type == RowType::kQ8_0 ? piece % 4 * 8 : piece % 2 * 8;
            const bool high = type == RowType::kQ4_0 && piece % 4 >= 2;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const uint32_t two = simt::read(reinterpret_cast<const uint16_t*>(block + 2 + first) + i);
                packed[i] = simt::pack_halves(scale * quant_of(type, two & 0xFFu, high),
                                              scale * quant_of(type, two >> 8, high));
            }
        }
        *reinterpret_cast<uint4*>(to) = uint4{packed[0], packed[1], packed[2], packed[3]};
    }
    SIMT_DEVICE static float quant_of(RowType type, uint32_t byte, bool high) {
        if (type == RowType::kQ8_0) return static_cast<float>(static_cast<int8_t>(byte));
        return static_cast<float>(static_cast<int>(high ? byte >> 4 : byte & 15u) - 8);
    }
};

/** A warp's sixteen rows in fragments: this lane has columns of rows `group` and `group` + 8, where group = lane / 4. */
template <int kHead>
struct TileRows {
    uint32_t q[kQueriesShared<kHead> ? 1 : kHead / 16][4];
    float out[kHead / 8][4];
    Softmax softmax[2];
    float slope[2];
};

/** Two elements of a query in shared memory. */
template <int kHead>
SIMT_DEVICE uint32_t* query_pair(uint16_t* queries, int row_in_block, int element) {
    return reinterpret_cast<uint32_t*>(queries + row_in_block * (kHead + kTilePad) + element);
}

template <int kHead, int kWarps>
SIMT_DEVICE void start_tile_rows(const TileBlock<kHead, kWarps>& block, int row_in_block, TileRows<kHead>& rows) {
    const int pair = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int number = block.first_row + row_in_block + half * 8;
        const bool there = number < block.place.rows;
        const RowPlace row = row_of(block.place, there ? number : 0);
        const float* q = query_of(block.a, row);
        rows.slope[half] = slope_of(block.a, row);
        rows.softmax[half] = {minus_infinity(), 0.0f};
#pragma unroll
        for (int t = 0; t < kHead / 16; ++t) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                const int at = t * 16 + c * 8 + pair * 2;
                const float2 two =
                    there && at < block.a.d_k ? simt::read(reinterpret_cast<const float2*>(q + at)) : float2{0, 0};
                const uint32_t packed = simt::pack_halves(two.x, two.y);
                if constexpr (kQueriesShared<kHead>) {  // read by the lane that writes it
                    *query_pair<kHead>(block.queries, row_in_block + half * 8, at) = packed;
                } else {
                    rows.q[t][half + 2 * c] = packed;
                }
            }
        }
    }
#pragma unroll
    for (int d = 0; d < kHead / 8; ++d) {
#pragma unroll
        for (int i = 0; i < 4; ++i) rows.out[d][i] = 0;
    }
}

/**
 * One tile for the rows of a warp. `mask` is the staged one of the first of them, at the tile's first cell; nullptr: all visible. `queries`: theirs, where
 * queries_shared.
 */
template <int kHead, int kWarps>
SIMT_DEVICE void multiply_tile(const AttentionArguments& a, const uint16_t* tile, const uint16_t* mask,
                               uint16_t* queries, TileRows<kHead>& rows) {
    using Block = TileBlock<kHead, kWarps>;
    constexpr int kKeys = Block::kKeys;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int group = lane / 4;
    const int pair = lane % 4;
    const uint16_t* k = tile;
    const uint16_t* v = tile + kKeys * Block::kPitch;
    float s[kKeys / 8][4];
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) s[n][i] = 0;
    }
#pragma unroll
    for (int t = 0; t < kHead / 16; ++t) {
        uint32_t q[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            if constexpr (kQueriesShared<kHead>) {
                q[r] = *query_pair<kHead>(queries, group + r % 2 * 8, t * 16 + r / 2 * 8 + pair * 2);
            } else {
                q[r] = rows.q[t][r];
            }
        }
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
            const uint16_t* at = k + (n * 8 + group) * Block::kPitch + t * 16 + pair * 2;
            const uint32_t b[2] = {*reinterpret_cast<const uint32_t*>(at), *reinterpret_cast<const uint32_t*>(at + 8)};
            simt::mma_halves(s[n], q, b);
        }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        Softmax& softmax = rows.softmax[half];
        float top = softmax.top;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
            uint32_t biases = 0;
            if (mask) {
                biases = *reinterpret_cast<const uint32_t*>(mask + (group + half * 8) * kMaskPitch + n * 8 + pair * 2);
            }
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                float& x = s[n][half * 2 + c];
                const auto bias = static_cast<uint16_t>(c ? biases >> 16 : biases);
                // A hidden key's product may be anything.
                x = bias == 0xFC00 ? minus_infinity()
                                   : logit_of(a, x) + rows.slope[half] * simt::half_to_float(bias) * kLog2E;
                top = simt::larger(top, x);
            }
        }
        top = simt::most_over_lanes<1, 4>(top);
        const float shrink = weight_of(softmax.top, top);
        softmax.top = top;
        softmax.total *= shrink;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                float& x = s[n][half * 2 + c];
                x = weight_of(x, top);
                softmax.total += x;  // this lane's share
            }
        }
#pragma unroll
        for (int d = 0; d < kHead / 8; ++d) {
            rows.out[d][half * 2] *= shrink;
            rows.out[d][half * 2 + 1] *= shrink;
        }
    }
#pragma unroll
    for (int t = 0; t < kKeys / 16; ++t) {
        const uint32_t weights[4] = {
            simt::pack_halves(s[2 * t][0], s[2 * t][1]), simt::pack_halves(s[2 * t][2], s[2 * t][3]),
            simt::pack_halves(s[2 * t + 1][0], s[2 * t + 1][1]), simt::pack_halves(s[2 * t + 1][2], s[2 * t + 1][3])};
#pragma unroll
        for (int d = 0; d < kHead / 8; ++d) {
            uint32_t b[2];
            simt::load_transposed(b, v + (t * 16 + lane % 16) * Block::kPitch + d * 8);
            simt::mma_halves(rows.out[d], weights, b);
        }
    }
}

/** Writes a warp's rows, as results or as this split's part, and says of each whether one of its numbers is not finite. */
template <int kHead, int kWarps>
SIMT_DEVICE void write_tile_rows(const TileBlock<kHead, kWarps>& block, int row_in_block, int split,
                                 const TileRows<kHead>& rows, unsigned* not_finite) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int pair = lane % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const Softmax softmax{rows.softmax[half].top, simt::sum_over_lanes<1, 4>(rows.softmax[half].total)};
        const int number = block.first_row + row_in_block + half * 8;
        const bool there = number < block.place.rows;
        const RowPlace row = row_of(block.place, there ? number : 0);
        bool bad = !is_finite(softmax.total);
        RowTarget target{nullptr, 0.0f};
        if (there) target = target_of(block.a, row, split, softmax, pair == 0);
#pragma unroll
        for (int d = 0; d < kHead / 8; ++d) {
            const int i = d * 8 + pair * 2;
            const float2 sums{rows.out[d][half * 2], rows.out[d][half * 2 + 1]};
            bad |= !is_finite(sums.x) || !is_finite(sums.y);
            if (!there || i >= block.a.d_v) continue;
            simt::write(reinterpret_cast<float2*>(target.to + i),
                        float2{sums.x * target.factor, sums.y * target.factor});
        }
        const unsigned lanes = __ballot_sync(simt::kWholeWarp, bad);
        if (pair == 0) not_finite[row_in_block + half * 8] = there && (lanes >> lane & 15u) != 0;
    }
}

/**
 * Computes row `number` of the block's list anew, from the cells that it sees alone: one warp. Rows of a tile share their pass over V,
 * where 0 times a NaN that only others see is NaN.
 */
template <int kHead, int kWarps>
SIMT_DEVICE void mend_row(const TileBlock<kHead, kWarps>& block, int number, int split) {
    constexpr int kLanes = kHead / kLaneElements;
    const AttentionArguments& a = block.a;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    StreamedRows<1> s;
    start_rows<1, kLanes>(a, block.place, number, s);
    for (uint32_t at = block.range.begin; at < block.range.end; ++at) {
        stream_page<1, kLanes>(a, block.list, read_page(a.pages + at), s);
    }
    join_lanes<1, kLanes>(s, 0);
    if (lane >= kLanes) return;
    const RowTarget target = target_of(a, s.row[0], split, s.softmax[0], lane == 0);
#pragma unroll
    for (int i = 0; i < kLaneElements; ++i) {
        const int at = element_of<kLanes>(in_blocks(a.v_type), lane, i);
        if (at < a.d_v) simt::write(target.to + at, s.sum[0][i] * target.factor);
    }
}

/** Head sizes up to kHead; K and V in f16, q8_0 or q4_0. Blocks of kWarps · 16 rows. */
template <int kHead, int kWarps>
SIMT_DEVICE void attend_tiles(const AttentionArguments& a) {
    using Block = TileBlock<kHead, kWarps>;
    SIMT_SHARED(memory);
    simt::Carver carver(memory);
    uint16_t* tiles = carver.take<uint16_t>(kTileStages * 2 * Block::kKeys * Block::kPitch);
    uint16_t* queries = kQueriesShared<kHead> ? carver.take<uint16_t>(Block::kRows * Block::kPitch) : nullptr;
    uint16_t* masks = carver.take<uint16_t>(2 * Block::kRows * kMaskPitch);
    unsigned* not_finite = carver.take<unsigned>(Block::kRows);
    unsigned* ticket = carver.take<unsigned>(1);

    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int split = static_cast<int>(blockIdx.y);
    const int row_blocks = (a.tile_tokens * (a.n_head / a.n_head_kv) + Block::kRows - 1) / Block::kRows;
    const ListPlace place = place_of(a, static_cast<int>(blockIdx.x) / row_blocks);
    const int first_row = static_cast<int>(blockIdx.x) % row_blocks * Block::kRows;
    if (first_row >= place.rows) return;  // of a last tile with fewer tokens
    const PageList list = read_list(a.lists + place.list);
    Block block{a, place, list, pages_of(list, split, a.splits), first_row, tiles, queries, masks, 0, 3};

    const int row_in_block = warp * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
    TileRows<kHead> rows;
    start_tile_rows(block, row_in_block, rows);

    Tile tile = block.first_visible({block.range.begin, 0});
    if (tile.page < block.range.end) block.fetch(tile, block.stage(0));
    simt::copy_commit();
    for (int number = 0; tile.page < block.range.end; ++number) {
        const int buffer = block.staged;
        const Tile next = block.first_visible({tile.page, tile.part + 1});
        if (next.page < block.range.end) block.fetch(next, block.stage(number + 1));
        simt::copy_commit();
        simt::copy_wait<1>();
        __syncthreads();
        const uint16_t* mask = masks + (buffer * Block::kRows + warp * 16) * kMaskPitch + tile.part * Block::kKeys;
        multiply_tile<kHead, kWarps>(a, block.stage(number), block.is_plain(buffer) ? nullptr : mask,
                                     kQueriesShared<kHead> ? queries + warp * 16 * Block::kPitch : nullptr, rows);
        __syncthreads();  // the tile is read; the one after the next takes its place
        tile = next;
    }

    write_tile_rows(block, row_in_block, split, rows, not_finite);
    __syncthreads();
    for (int row = warp; row < Block::kRows; row += kWarps) {
        if (not_finite[row]) mend_row(block, first_row + row, split);
    }
    if (a.splits == 1 || !last_of_splits(a, static_cast<int>(blockIdx.x), ticket)) return;
    const int row_count = simt::smaller(Block::kRows, place.rows - first_row);
    for (int r = 0; r < row_count; ++r) merge_splits(a, row_of(place, first_row + r), Block::kThreads);
}

}  // namespace atlas::kernels::cuda
