#include <cmath>
#include <limits>
#include <new>
#include <vector>

#include "base/parallel.h"
#include "kernels/cpu/attention/mend_row.h"
#include "kernels/cpu/attention/prefill.h"
#include "kernels/cpu/cpu.h"

namespace atlas::kernels::cpu {
namespace {

// Fewer keys per task than this, and packing the queries and merging the parts costs more than sharing them out gains.
constexpr int64_t kMinTaskKeys = 1024;
constexpr int64_t kTasksPerThread = 4;
// Fewer rows per task than this, and decoding the keys shows beside the arithmetic.
constexpr int64_t kMinTaskRows = 96;

class ManyQueries {
public:
    ManyQueries(const Problem& problem, int n_threads) : p_(problem) {
        const AttentionArgs& args = p_.args;
        const int64_t n_lists = args.n_stream * args.n_head_kv * p_.lists;
        const int64_t enough = n_threads == 1 ? 1 : kTasksPerThread * n_threads;
        const auto even = [&](int64_t rows) {
            const int64_t most = std::max<int64_t>(1, rows / p_.group);
            const int64_t parts = (p_.tokens_per_list + most - 1) / most;
            return (p_.tokens_per_list + parts - 1) / parts;
        };
        tokens_ = even(prefill_rows(args));
        if (n_lists * (p_.tokens_per_list / tokens_) < enough) {
            const int64_t rows = n_lists * p_.tokens_per_list * p_.group / enough;
            tokens_ = std::min(tokens_, even(std::max(rows, kMinTaskRows)));
        }
        const int64_t n_tasks = n_lists * ((p_.tokens_per_list + tokens_ - 1) / tokens_);
        max_parts_ = n_threads == 1 ? 1 : (enough + n_tasks - 1) / n_tasks;
        for (int64_t stream = 0; stream < args.n_stream; ++stream) {
            for (int64_t kv_head = 0; kv_head < args.n_head_kv; ++kv_head) {
                for (int64_t list = 0; list < p_.lists; ++list) add_list(stream, kv_head, list);
            }
        }
        partials_.resize(partial_floats_);
        for (size_t i = 0; i < tasks_.size(); ++i) {
            if (offsets_[i] >= 0) tasks_[i].partial = partials_.data() + offsets_[i];
        }
    }

    size_t tasks() const { return tasks_.size(); }

    /** Throws std::bad_alloc. */
    void run(size_t index) const {
        // Later tokens see more keys: starting with them keeps the threads even at the end.
        const PrefillTask& task = tasks_[tasks_.size() - 1 - index];
        run_prefill(p_, task, thread_scratch().get(prefill_workspace(p_.args, task.n_tokens)));
    }

    /** Merges the parts of tasks whose keys were shared out. */
    void finish() {
        for (size_t i = 0; i < tasks_.size(); ++i) {
            if (tasks_[i].partial == nullptr || tasks_[i].begin != 0) continue;
            size_t parts = 1;
            while (i + parts < tasks_.size() && tasks_[i + parts].begin != 0) ++parts;
            for (int64_t row = 0; row < tasks_[i].n_tokens * p_.group; ++row) finish_row(i, parts, row);
        }
    }

private:
    void add_list(int64_t stream, int64_t kv_head, int64_t list) {
        int64_t keys = 0;
        for (const Run& run : p_.runs(stream, kv_head, list).runs) keys += run.count;
        const int64_t blocks = (keys + kBlockKeys - 1) / kBlockKeys;
        const int64_t parts = std::clamp<int64_t>(keys / kMinTaskKeys, 1, max_parts_);
        const int64_t first = list * p_.tokens_per_list;
        const int64_t last = std::min(first + p_.tokens_per_list, p_.args.n_tokens);
        for (int64_t token = first; token < last; token += tokens_) {
            const int64_t tokens = std::min(tokens_, last - token);
            for (int64_t part = 0; part < parts; ++part) {
                const int64_t begin = blocks * part / parts * kBlockKeys;
                const int64_t end = std::min(blocks * (part + 1) / parts * kBlockKeys, keys);
                tasks_.push_back({stream, kv_head, list, token, tokens, begin, end});
                offsets_.push_back(parts > 1 ? static_cast<int64_t>(partial_floats_) : -1);
                if (parts > 1) partial_floats_ += static_cast<size_t>(tokens * p_.group * (1 + p_.args.d_v));
            }
        }
    }

    void finish_row(size_t first, size_t parts, int64_t row) {
        constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
        const AttentionArgs& args = p_.args;
        const PrefillTask& task = tasks_[first];
        const auto state = [&](size_t part) { return tasks_[first + part].partial + row * (1 + args.d_v); };
        float lse = state(0)[0];
        float* o = state(0) + 1;
        for (size_t part = 1; part < parts; ++part) cpu::merge(o, &lse, state(part) + 1, state(part)[0], args.d_v);
        const int64_t token = task.first_token + row / p_.group;
        const int64_t head = task.kv_head * p_.group + row % p_.group;
        float factor = 1.0f;
        if (args.sinks != nullptr && args.sinks[head] != kMinusInfinity) {
            const float max = std::max(lse, args.sinks[head]);
            const float with_sink = max + std::log(std::exp(lse - max) + std::exp(args.sinks[head] - max));
            factor = std::exp(lse - with_sink);
            lse = with_sink;
        }
        float* out = p_.out(task.stream, token, head);
        for (int64_t i = 0; i < args.d_v; ++i) out[i] = o[i] * factor;
        if (args.lse != nullptr) args.lse[(task.stream * args.n_tokens + token) * args.n_head + head] = lse;
        mend_row(p_, task.stream, token, head);
    }

    const Problem& p_;
    int64_t tokens_ = 1;     // per task
    int64_t max_parts_ = 1;  // into which a task's keys are divided
    std::vector<PrefillTask> tasks_;
    std::vector<int64_t> offsets_;  // of each task's partial results, -1 without
    std::vector<float> partials_;
    size_t partial_floats_ = 0;
};

}  // namespace

Status attend_many(const Problem& problem, int n_threads) {
    try {
        ManyQueries many(problem, n_threads);
        parallel_for(static_cast<int64_t>(many.tasks()), n_threads, Schedule::kDynamic,
                     [&](int64_t i) { many.run(static_cast<size_t>(i)); });
        many.finish();
        return Status::ok();
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory("attention: list of tasks, or a thread's workspace");
    }
}

}  // namespace atlas::kernels::cpu
