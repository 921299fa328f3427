#include "kernels/cuda/packed.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace atlas::kernels::cuda {
namespace {

/** Bytes from row to row: rows of floats start at multiples of 16, blocks at those of 2. */
int64_t stride_of(DataType type, int64_t d) {
    const auto bytes = static_cast<int64_t>(row_bytes(type, d));
    return data_type_info(type).block_elements == 1 ? (bytes + 15) / 16 * 16 : bytes;
}

}  // namespace

PackedAttention::PackedAttention(const AttentionArgs& args)
    : k_stride(stride_of(args.k_type, args.d_k)), v_stride(stride_of(args.v_type, args.d_v)) {
    tile_tokens = std::min(args.tokens_per_tile, args.n_tokens);
    tiles = tile_tokens > 0 ? (args.n_tokens + tile_tokens - 1) / tile_tokens : 0;
    for (int64_t list = 0; list < args.n_stream * args.n_head_kv * tiles; ++list) {
        const HeadRuns& head = args.runs[list];
        PageList packed;
        packed.begin = static_cast<uint32_t>(pages.size());
        for (const Run& run : head.runs) add_run(args, head, run);
        packed.end = static_cast<uint32_t>(pages.size());
        longest_list = std::max<int64_t>(longest_list, packed.end - packed.begin);
        lists.push_back(packed);
    }
    q.resize(static_cast<size_t>(args.n_stream * args.n_tokens * args.n_head * args.d_k));
    float* to = q.data();
    for (int64_t stream = 0; stream < args.n_stream; ++stream) {
        for (int64_t token = 0; token < args.n_tokens; ++token) {
            for (int64_t head = 0; head < args.n_head; ++head, to += args.d_k) {
                const std::byte* from = reinterpret_cast<const std::byte*>(args.q) + stream * args.q_stream_stride +
                                        token * args.q_token_stride + head * args.q_head_stride;
                std::memcpy(to, from, static_cast<size_t>(args.d_k) * sizeof(float));
            }
        }
    }
    if (args.max_bias > 0.0f) {
        for (int64_t head = 0; head < args.n_head; ++head) {
            slopes.push_back(alibi_slope(args.max_bias, head, args.n_head));
        }
    }
    const Mask& mask = args.mask;
    if (mask.data && last_key_ >= 0) {
        mask_elements = (mask.n_streams - 1) * mask.stream_stride + (mask.n_heads - 1) * mask.head_stride +
                        (args.n_tokens - 1) * mask.token_stride + last_key_ + 1;
    }
}

void PackedAttention::relocate(uint64_t rows_address) {
    for (Page& page : pages) {
        page.k = reinterpret_cast<const unsigned char*>(reinterpret_cast<uint64_t>(page.k) + rows_address);
        page.v = reinterpret_cast<const unsigned char*>(reinterpret_cast<uint64_t>(page.v) + rows_address);
    }
}

uint64_t PackedAttention::add_rows(const std::byte* from, int64_t from_stride, size_t row_bytes, int64_t to_stride,
                                   uint64_t cells) {
    const size_t at = (rows.size() + 15) / 16 * 16;
    rows.resize(at + static_cast<size_t>(kPageKeys * to_stride), std::byte{0xFF});
    for (int64_t j = 0; j < kPageKeys; ++j) {
        if (cells >> j & 1) std::memcpy(rows.data() + at + j * to_stride, from + j * from_stride, row_bytes);
    }
    return at;
}

void PackedAttention::add_run(const AttentionArgs& args, const HeadRuns& head, const Run& run) {
    const int64_t end = run.has_gaps() ? std::bit_width(run.cells) : run.count;
    for (int64_t first = 0; first < end; first += kPageKeys) {
        const int64_t count = std::min<int64_t>(kPageKeys, end - first);
        const uint64_t cells = run.has_gaps()       ? run.cells
                               : count == kPageKeys ? ~uint64_t{0}
                                                    : (uint64_t{1} << count) - 1;
        const uint64_t k = add_rows(run.k + head.k_offset + first * args.k_stride, args.k_stride,
                                    row_bytes(args.k_type, args.d_k), k_stride, cells);
        const uint64_t v = add_rows(run.v + head.v_offset + first * args.v_stride, args.v_stride,
                                    row_bytes(args.v_type, args.d_v), v_stride, cells);
        pages.push_back({reinterpret_cast<const unsigned char*>(k), reinterpret_cast<const unsigned char*>(v), cells,
                         run.key + first});
    }
    last_key_ = std::max(last_key_, run.key + end - 1);
}

}  // namespace atlas::kernels::cuda
