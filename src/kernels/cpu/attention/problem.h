#pragma once

#include <hwy/aligned_allocator.h>

#include <algorithm>
#include <cstdint>

#include "kernels/attention.h"
#include "kernels/cpu/attention/row_ops.h"
#include "kernels/cpu/elementwise/softmax.h"
#include "kernels/cpu/rows/decode.h"

namespace atlas::kernels::cpu {

/** What both paths derive from the arguments. Rows are (token, head of the group) pairs of one KV head: row = token · group + head. */
struct Problem {
    explicit Problem(const AttentionArgs& a)
        : args(a),
          softmax(softmax_ops()),
          k_ops(row_ops(a.k_type)),
          v_ops(row_ops(a.v_type)),
          k_decode(row_decode(a.k_type)),
          v_decode(row_decode(a.v_type)),
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

    const AttentionArgs& args;
    const SoftmaxOps& softmax;
    const RowOps k_ops, v_ops;          // of f32 for rows of type kOther
    const DecodeFn k_decode, v_decode;  // nullptr for those
    const int64_t group;
    const int64_t tokens_per_list;
    const int64_t lists;
    const float q_scale;
};

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

/** The calling thread's buffer. Throws std::bad_alloc. */
Scratch& thread_scratch();

Status attend_few(const Problem& problem, int n_threads);
Status attend_many(const Problem& problem, int n_threads);

}  // namespace atlas::kernels::cpu
