#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention/problem.h"

namespace atlas::kernels::cpu {

/** All heads of one KV head's group, for some tokens of one list, over some of its keys. */
struct PrefillTask {
    int64_t stream, kv_head, list;
    int64_t first_token, n_tokens;
    int64_t begin, end;  ///< key positions within the list, counted over its runs
    float* partial =
        nullptr;  ///< nullptr: writes out and lse; else [n_tokens · group][1 + d_v]: lse without sinks, then o
};

/** Keys are decoded and packed once per task, so tasks of about this many rows (tokens · group) cost least. */
int64_t prefill_rows(const AttentionArgs& args);

/** Floats of workspace for a task of up to `tokens` tokens. */
size_t prefill_workspace(const AttentionArgs& args, int64_t tokens);

/** Runs one task on the SIMD variant in use. `workspace`: 64-byte aligned, prefill_workspace(args, task.n_tokens) floats. */
void run_prefill(const Problem& problem, const PrefillTask& task, float* workspace);

}  // namespace atlas::kernels::cpu
