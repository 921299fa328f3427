#pragma once

#include <hwy/aligned_allocator.h>

#include <algorithm>
#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cpu/ops.h"

namespace atlas::kernels::cpu {

/** What both paths derive from the arguments. Rows are (token, head of the group) pairs of one KV head: row = token · group + head. */
struct Problem {
    explicit Problem(const AttentionArgs& a)
        : args(a),
          ops(cpu_ops()),
          group(a.n_head / a.n_head_kv),
          tokens_per_list(std::min(a.tokens_per_tile, a.n_tokens)),
          lists((a.n_tokens + tokens_per_list - 1) / tokens_per_list),
          // Softcap needs q·k·scale/cap; the cap itself is applied by soft_cap.
          q_scale(a.softcap != 0.0f ? a.scale / a.softcap : a.scale) {}

    const HeadRuns& runs(int64_t stream, int64_t kv_head, int64_t list) const {
        return args.runs[(stream * args.n_head_kv + kv_head) * lists + list];
    }
    const float* query(int64_t stream, int64_t token, int64_t head) const {
        return reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(args.q) +
                                              stream * args.q_stream_stride + token * args.q_token_stride +
                                              head * args.q_head_stride);
    }
    float* out(int64_t stream, int64_t token, int64_t head) const {
        return reinterpret_cast<float*>(reinterpret_cast<std::byte*>(args.out) + stream * args.out_stream_stride +
                                        token * args.out_token_stride + head * args.out_head_stride);
    }
    const uint16_t* mask_row(int64_t stream, int64_t token, int64_t head) const {
        const Mask& mask = args.mask;
        return mask.data + (stream % mask.n_streams) * mask.stream_stride + (head % mask.n_heads) * mask.head_stride +
               token * mask.token_stride;
    }
    /** What `token` sees of keys [key, key + count), which lie inside one block of kBlockKeys. */
    BlockVisibility visibility(int64_t stream, int64_t token, int64_t head, int64_t key) const {
        const Mask& mask = args.mask;
        if (!mask.data) return BlockVisibility::kAll;
        if (!mask.summary) return BlockVisibility::kMixed;
        const int64_t row = ((stream % mask.n_streams) * mask.n_heads + head % mask.n_heads) * args.n_tokens + token;
        return mask.summary[row * mask.summary_blocks + key / kBlockKeys];
    }

    const AttentionArgs& args;
    const CpuOps& ops;
    const int64_t group;
    const int64_t tokens_per_list;
    const int64_t lists;
    const float q_scale;
};

/** Keys of a run inside one block of kBlockKeys keys, with the KV head's offsets applied. */
struct Piece {
    const std::byte* k;
    const std::byte* v;
    int64_t key;
    size_t count;
};

/** Calls visit(Piece) for the keys of runs[begin_run…], key positions [begin, end) of the list counted over all runs. */
template <typename Visit>
void for_each_piece(const AttentionArgs& args, const HeadRuns& list, int64_t begin, int64_t end, Visit visit) {
    int64_t position = 0;
    for (const Run& run : list.runs) {
        const int64_t from = std::max<int64_t>(begin - position, 0);
        const int64_t to = std::min<int64_t>(end - position, run.count);
        position += run.count;
        for (int64_t i = from; i < to;) {
            const int64_t key = run.key + i;
            const int64_t count = std::min(to - i, kBlockKeys - key % kBlockKeys);
            visit(Piece{run.k + list.k_offset + i * args.k_stride, run.v + list.v_offset + i * args.v_stride, key,
                        static_cast<size_t>(count)});
            i += count;
        }
        if (position >= end) return;
    }
}

/** Rows of a piece as f32 [count][d]: for types without a kernel, through their decoder. */
inline void decode_rows(const CpuOps& ops, DataType type, RowDecoder decoder, const std::byte* rows, int64_t stride,
                        size_t count, int64_t d, float* out) {
    if (type != DataType::kOther) {
        ops.decode[static_cast<size_t>(type)](rows, static_cast<size_t>(stride), count, static_cast<size_t>(d), out,
                                              static_cast<size_t>(d));
        return;
    }
    for (size_t j = 0; j < count; ++j)
        decoder(rows + static_cast<int64_t>(j) * stride, out + static_cast<int64_t>(j) * d, d);
}

/** A float buffer of one thread, aligned for every vector, that only grows. */
class Scratch {
public:
    /** Throws std::bad_alloc. */
    float* get(size_t floats) {
        if (floats > size_) {
            memory_.reset();
            size_ = 0;
            memory_ = hwy::AllocateAligned<float>(floats);
            if (!memory_) throw std::bad_alloc();
            size_ = floats;
        }
        return memory_.get();
    }

private:
    hwy::AlignedFreeUniquePtr<float[]> memory_;
    size_t size_ = 0;
};

/** The calling thread's buffer. */
Scratch& thread_scratch();

Status attend_few(const Problem& problem, int n_threads);
Status attend_many(const Problem& problem, int n_threads);

}  // namespace atlas::kernels::cpu
