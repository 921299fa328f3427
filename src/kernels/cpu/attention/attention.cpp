#include "base/per_thread.h"
#include "kernels/cpu/attention/problem.h"
#include "kernels/cpu/cpu.h"
#include "kernels/reference/reference.h"

namespace atlas::kernels::cpu {
namespace {

// Up to this many rows per KV head the keys are streamed past the queries; beyond, packing them into tiles pays, although with few
// rows much of the time goes into it (measured crossover: 16 to 24 rows, docs/design/experiments.md).
constexpr int64_t kFewRows = 20;

}  // namespace

Scratch& thread_scratch() {
    static thread_local PerThread<Scratch> scratch;
    return scratch.get();
}

Status attention(const AttentionArgs& args, int n_threads) {
    if (Status status = reference::check_attention(args); !status.is_ok()) return status;
    if (args.n_tokens == 0 || args.n_stream == 0) return Status::ok();
    const Problem problem(args);
    const int threads = std::max(1, n_threads);
    return problem.tokens_per_list * problem.group <= kFewRows ? attend_few(problem, threads)
                                                               : attend_many(problem, threads);
}

}  // namespace atlas::kernels::cpu
