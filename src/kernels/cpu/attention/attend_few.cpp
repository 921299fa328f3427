#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <span>
#include <vector>

#include "base/parallel.h"
#include "base/per_thread.h"
#include "kernels/cpu/attention/mend_row.h"
#include "kernels/cpu/attention/problem.h"
#include "kernels/cpu/attention/row_batches.h"
#include "kernels/row_codec.h"

namespace atlas::kernels::cpu {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
// Fewer keys per task than this, and starting and merging tasks costs more than sharing them out gains.
constexpr int64_t kMinTaskKeys = 512;
// Where there are fewer tasks than threads even so, down to this.
constexpr int64_t kLeastTaskKeys = 128;
constexpr int64_t kTasksPerThread = 4;
// Queries and results of the heads that share a task stay in L2 beside two batches of K and V.
constexpr size_t kTaskStateBytes = size_t{256} << 10;

size_t padded(int64_t d) { return (static_cast<size_t>(d) + kChunk - 1) / kChunk * kChunk; }

/**
 * Some keys of consecutive KV heads whose lists have the same runs, and the softmax state of their rows over them. A cell's heads lie side by
 * side in memory: worked through together, every line and every page of memory is read once and in order.
 */
struct Task {
    int64_t stream, list;
    int64_t kv_head, heads;  // first KV head and number of them
    int64_t begin, end;      // key positions within the list
    int64_t first_of_list;   // index of the first task of the same list and heads
    float* state;            // [heads][rows][16 + padded d_v]: maximum, sum, weighted values
};

class FewQueries {
public:
    FewQueries(const Problem& problem, int n_threads)
        : p_(problem),
          rows_(problem.tokens_per_list * problem.group),
          dk_(padded(problem.args.d_k)),
          dv_(padded(problem.args.d_v)),
          state_stride_(dv_ + 16) {
        plan(n_threads);
    }

    size_t tasks() const { return tasks_.size(); }

    /** Throws std::bad_alloc. */
    void run(size_t index) {
        const Task& task = tasks_[index];
        const AttentionArgs& args = p_.args;
        const int64_t token0 = task.list * p_.tokens_per_list;
        const int64_t tokens = std::min(p_.tokens_per_list, args.n_tokens - token0);
        const size_t rows = static_cast<size_t>(tokens * p_.group);
        const size_t heads = static_cast<size_t>(task.heads);

        const size_t decoded = kBlockKeys * static_cast<size_t>(std::max(args.d_k, args.d_v));
        const auto sights = static_cast<size_t>(RowBatches::visibility_rows(p_, task.heads, tokens));
        float* q = thread_scratch().get(heads * rows * dk_ + rows * kBlockKeys + decoded +
                                        sights * sizeof(void*) / sizeof(float));
        float* s = q + heads * rows * dk_;
        float* decode_buffer = s + rows * kBlockKeys;
        RowBatches walk(p_, task.stream, task.kv_head, task.heads, task.list, task.begin, task.end, token0, tokens,
                        reinterpret_cast<const BlockVisibility**>(decode_buffer + decoded));
        // Each batch is worked on when the next one is known, so that its rows can be on their way.
        RowBatch batches[2];
        bool more = walk.next(batches[0]);
        if (more) fetch(batches[0], 0, 0, 0);
        for (int64_t h = 0; h < task.heads; ++h)
            load_queries(task.stream, task.kv_head + h, token0, tokens, q + static_cast<size_t>(h) * rows * dk_);
        for (size_t r = 0; r < heads * rows; ++r) {
            float* state = task.state + r * state_stride_;
            std::memset(state, 0, state_stride_ * sizeof(float));
            state[0] = kMinusInfinity;
        }
        const HeadRuns& first = p_.runs(task.stream, task.kv_head, task.list);
        for (size_t at = 0; more; at ^= 1) {
            const RowBatch& batch = batches[at];
            RowBatch& next = batches[at ^ 1];
            more = walk.next(next);
            for (int64_t h = 0; h < task.heads; ++h) {
                const HeadRuns& list = p_.runs(task.stream, task.kv_head + h, task.list);
                const int64_t k_shift = list.k_offset - first.k_offset;
                const int64_t v_shift = list.v_offset - first.v_offset;
                const size_t row = static_cast<size_t>(h) * rows;
                add({task.stream, task.kv_head + h, token0, task.state + row * state_stride_}, batch, k_shift, v_shift,
                    more ? &next : nullptr, q + row * dk_, s, decode_buffer);
            }
        }
    }

    /** Merges, after all tasks: `index` < tasks(), each does the rows of a list that fall to it. Throws std::bad_alloc. */
    void finish(size_t index) const {
        const auto first = static_cast<size_t>(tasks_[index].first_of_list);
        size_t parts = 1;
        while (first + parts < tasks_.size() && tasks_[first + parts].first_of_list == static_cast<int64_t>(first))
            ++parts;
        const Task& task = tasks_[first];
        const int64_t token0 = task.list * p_.tokens_per_list;
        const int64_t rows = task.heads * p_.group * std::min(p_.tokens_per_list, p_.args.n_tokens - token0);
        const auto part = static_cast<int64_t>(index - first);
        const auto n = static_cast<int64_t>(parts);
        for (int64_t row = rows * part / n; row < rows * (part + 1) / n; ++row) finish_row(first, parts, row);
    }

private:
    /** The rows of one KV head in a task. */
    struct Rows {
        int64_t stream, kv_head, token0;
        float* state;
    };

    /** How many heads from `kv_head` on share the runs of its list. */
    int64_t sharing_heads(int64_t stream, int64_t kv_head, int64_t list) const {
        const std::span<const Run> runs = p_.runs(stream, kv_head, list).runs;
        const size_t bytes = static_cast<size_t>(rows_) * (dk_ + state_stride_) * sizeof(float);
        const auto most = std::max<int64_t>(1, static_cast<int64_t>(kTaskStateBytes / bytes));
        int64_t heads = 1;
        for (; heads < most && kv_head + heads < p_.args.n_head_kv; ++heads) {
            const std::span<const Run> other = p_.runs(stream, kv_head + heads, list).runs;
            if (other.data() != runs.data() || other.size() != runs.size()) break;
        }
        return heads;
    }

    void plan(int n_threads) {
        const AttentionArgs& args = p_.args;
        struct Group {
            int64_t stream, list, kv_head, heads, keys;
        };
        std::vector<Group> groups;
        for (int64_t stream = 0; stream < args.n_stream; ++stream) {
            for (int64_t list = 0; list < p_.lists; ++list) {
                for (int64_t kv_head = 0; kv_head < args.n_head_kv;) {
                    const int64_t heads = sharing_heads(stream, kv_head, list);
                    int64_t keys = 0;
                    for (const Run& run : p_.runs(stream, kv_head, list).runs) keys += run.count;
                    groups.push_back({stream, list, kv_head, heads, keys});
                    kv_head += heads;
                }
            }
        }
        const auto n_groups = static_cast<int64_t>(groups.size());
        const int64_t wanted = (kTasksPerThread * n_threads + n_groups - 1) / n_groups;
        const int64_t needed = (n_threads + n_groups - 1) / n_groups;
        size_t state_rows = 0;
        for (const Group& group : groups) {
            int64_t parts = 1;
            if (n_threads > 1) {
                parts = std::clamp<int64_t>(group.keys / kMinTaskKeys, 1, wanted);
                parts = std::max(parts, std::min(needed, group.keys / kLeastTaskKeys));
            }
            const int64_t blocks = (group.keys + kBlockKeys - 1) / kBlockKeys;
            parts = std::max<int64_t>(1, std::min(parts, blocks));
            const auto first = static_cast<int64_t>(tasks_.size());
            for (int64_t part = 0; part < parts; ++part) {
                const int64_t begin = blocks * part / parts * kBlockKeys;
                const int64_t end = part + 1 == parts ? group.keys : blocks * (part + 1) / parts * kBlockKeys;
                tasks_.push_back({group.stream, group.list, group.kv_head, group.heads, begin, end, first, nullptr});
                state_rows += static_cast<size_t>(group.heads * rows_);
            }
        }
        // Kept between calls: fresh memory of this size would come from the kernel each time, page by page.
        thread_local PerThread<Scratch> states;
        float* state = states.get().get(state_rows * state_stride_);
        for (Task& task : tasks_) {
            task.state = state;
            state += static_cast<size_t>(task.heads * rows_) * state_stride_;
        }
    }

    void load_queries(int64_t stream, int64_t kv_head, int64_t token0, int64_t tokens, float* q) const {
        for (int64_t t = 0; t < tokens; ++t) {
            for (int64_t g = 0; g < p_.group; ++g, q += dk_) {
                const float* from = p_.query(stream, token0 + t, kv_head * p_.group + g);
                for (int64_t i = 0; i < p_.args.d_k; ++i) q[i] = from[i] * p_.q_scale;
                std::fill(q + p_.args.d_k, q + dk_, 0.0f);
            }
        }
    }

    /** Asks memory for rows of a batch, from `begin` on; those before it are on their way already. */
    void fetch(const RowBatch& batch, size_t begin, int64_t k_shift, int64_t v_shift) const {
        const auto lines = [](DataType type, const std::byte* row, int64_t d) {
            if (type == DataType::kOther) return;
            const auto bytes = static_cast<int64_t>(row_bytes(type, d));
            for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(row + b, 0, 2);
        };
        for (size_t j = begin; j < batch.count; ++j) lines(p_.args.k_type, batch.k[j] + k_shift, p_.args.d_k);
        for (size_t j = begin; j < batch.count; ++j) lines(p_.args.v_type, batch.v[j] + v_shift, p_.args.d_v);
    }

    /** Rows of type kOther as f32 in `buffer`, and where each of them lies there. */
    static void decode(RowDecoder decoder, const RowSet& rows, size_t count, int64_t d, float* buffer,
                       const std::byte** decoded) {
        for (size_t j = 0; j < kBlockKeys; ++j) {
            decoded[j] = reinterpret_cast<const std::byte*>(buffer + static_cast<int64_t>(j) * d);
            if (j < count) decoder(rows.at[j] + rows.shift, buffer + static_cast<int64_t>(j) * d, d);
        }
    }

    void add(const Rows& of, const RowBatch& batch, int64_t k_shift, int64_t v_shift, const RowBatch* next,
             const float* q, float* s, float* decode_buffer) const {
        // Tokens that see nothing of the batch at either end are left out; in between they get weights of 0.
        const AttentionArgs& args = p_.args;
        const size_t row0 = static_cast<size_t>(batch.first * p_.group);
        const size_t rows = static_cast<size_t>((batch.last - batch.first + 1) * p_.group);
        if (next && next->count > batch.count) fetch(*next, batch.count, k_shift, v_shift);

        const std::byte* decoded[kBlockKeys];
        RowSet k{batch.k, k_shift, batch.even ? args.k_stride : 0};
        const std::byte* const* next_k = next ? next->k : nullptr;
        if (args.k_type == DataType::kOther) {
            decode(args.k_decode, k, batch.count, args.d_k, decode_buffer, decoded);
            k = {decoded, 0, args.d_k * static_cast<int64_t>(sizeof(float))};
            next_k = nullptr;
        }
        float* scores = s + row0 * kBlockKeys;
        p_.k_ops.score(q + row0 * dk_, dk_, rows, k, batch.count, static_cast<size_t>(args.d_k), scores, kBlockKeys,
                       next_k);
        for (size_t r = 0; r < rows; ++r) weigh(of, row0 + r, batch, s);

        RowSet v{batch.v, v_shift, batch.even ? args.v_stride : 0};
        const std::byte* const* next_v = next ? next->v : nullptr;
        if (args.v_type == DataType::kOther) {
            decode(args.v_decode, v, batch.count, args.d_v, decode_buffer, decoded);
            v = {decoded, 0, args.d_v * static_cast<int64_t>(sizeof(float))};
            next_v = nullptr;
        }
        const auto value = [&](size_t from, size_t count) {
            p_.v_ops.value(scores + from, kBlockKeys, rows, {v.at + from, v.shift, v.stride}, count,
                           static_cast<size_t>(args.d_v), of.state + row0 * state_stride_ + 16, state_stride_,
                           next_v ? next_v + from : nullptr);
        };
        if (!batch.mixed) {
            value(0, batch.count);
            return;
        }
        // Cells that no row sees may hold anything, and 0 · NaN is NaN: their V is left alone.
        const auto seen = [&](size_t j) {
            for (size_t r = 0; r < rows; ++r) {
                if (scores[r * kBlockKeys + j] != 0.0f) return true;
            }
            return false;
        };
        for (size_t j = 0; j < batch.count;) {
            const size_t from = j;
            while (j < batch.count && seen(j)) ++j;
            if (j > from) value(from, j - from);
            while (j < batch.count && !seen(j)) ++j;
        }
    }

    /** Turns one row of scores into weights and updates its maximum and sum. */
    void weigh(const Rows& of, size_t row, const RowBatch& batch, float* s) const {
        const AttentionArgs& args = p_.args;
        float* scores = s + row * kBlockKeys;
        float* state = of.state + row * state_stride_;
        if (args.softcap != 0.0f) p_.softmax.soft_cap(scores, batch.count, args.softcap);
        if (batch.mixed) {
            const int64_t head = of.kv_head * p_.group + static_cast<int64_t>(row) % p_.group;
            const int64_t token = of.token0 + static_cast<int64_t>(row) / p_.group;
            const uint16_t* mask = p_.mask_row(of.stream, token, head);
            uint16_t gathered[kBlockKeys];
            if (batch.even) {
                mask += batch.key[0];
            } else {
                for (size_t j = 0; j < batch.count; ++j) gathered[j] = mask[batch.key[j]];
                mask = gathered;
            }
            add_mask(mask, batch.count, alibi_slope(args.max_bias, head, args.n_head), scores);
        }
        const float max = std::max(state[0], p_.softmax.max(scores, batch.count));
        if (max == kMinusInfinity) {
            // Nothing visible, or nothing but NaN: that one makes the row NaN.
            if (std::any_of(scores, scores + batch.count, [](float x) { return std::isnan(x); })) {
                state[0] = 0.0f;
                state[1] = std::numeric_limits<float>::quiet_NaN();
            }
            std::fill(scores, scores + batch.count, 0.0f);
            return;
        }
        if (max > state[0]) {
            if (state[1] != 0.0f) {
                const float shrink = std::exp(state[0] - max);
                state[1] *= shrink;
                p_.softmax.scale(state + 16, dv_, shrink);
            }
            state[0] = max;
        }
        state[1] += p_.softmax.exp_sum(scores, batch.count, max);
    }

    static void add_mask(const uint16_t* mask, size_t count, float slope, float* scores) {
        for (size_t j = 0; j < count; ++j) {
            if (mask[j] == 0xFC00) {
                scores[j] = kMinusInfinity;
            } else if ((mask[j] & 0x7FFF) != 0) {
                scores[j] += slope * f16_to_f32(mask[j]);
            }
        }
    }

    /** Merges the states of a row in tasks [index, index + parts) by log-sum-exp, and writes the result. */
    void finish_row(size_t index, size_t parts, int64_t row) const {
        const AttentionArgs& args = p_.args;
        const Task& first = tasks_[index];
        const int64_t token0 = first.list * p_.tokens_per_list;
        const int64_t per_head = std::min(p_.tokens_per_list, args.n_tokens - token0) * p_.group;
        const int64_t head = (first.kv_head + row / per_head) * p_.group + row % p_.group;
        const int64_t token = token0 + row % per_head / p_.group;
        const auto state = [&](size_t part) {
            return tasks_[index + part].state + static_cast<size_t>(row) * state_stride_;
        };
        float max = args.sinks ? args.sinks[head] : kMinusInfinity;
        for (size_t part = 0; part < parts; ++part) max = std::max(max, state(part)[0]);
        float* out = p_.out(first.stream, token, head);
        const auto d_v = static_cast<size_t>(args.d_v);
        if (max == kMinusInfinity) {
            std::fill(out, out + d_v, 0.0f);
        } else {
            float sum = args.sinks ? std::exp(args.sinks[head] - max) : 0.0f;
            float* merged = thread_scratch().get(parts + dv_ + kChunk);
            float* weights = merged + dv_;
            for (size_t part = 0; part < parts; ++part) {
                weights[part] = std::exp(state(part)[0] - max);
                sum += state(part)[1] * weights[part];
            }
            std::fill(merged, merged + dv_, 0.0f);
            const RowOps sum_rows = row_ops_f32();
            for (size_t part = 0; part < parts;) {
                const std::byte* values[kBlockKeys];
                size_t n = 0;
                for (; n < kBlockKeys && part + n < parts; ++n)
                    values[n] = reinterpret_cast<const std::byte*>(state(part + n) + 16);
                sum_rows.value(weights + part, 0, 1, {values, 0, 0}, n, d_v, merged, dv_, nullptr);
                part += n;
            }
            p_.softmax.scale(merged, d_v, 1.0f / sum);
            std::memcpy(out, merged, d_v * sizeof(float));
            if (args.lse) args.lse[(first.stream * args.n_tokens + token) * args.n_head + head] = max + std::log(sum);
            mend_row(p_, first.stream, token, head);
            return;
        }
        if (args.lse) args.lse[(first.stream * args.n_tokens + token) * args.n_head + head] = kMinusInfinity;
    }

    const Problem& p_;
    const int64_t rows_;
    const size_t dk_, dv_;
    const size_t state_stride_;
    std::vector<Task> tasks_;
};

}  // namespace

Status attend_few(const Problem& problem, int n_threads) {
    try {
        FewQueries few(problem, n_threads);
        const auto n = static_cast<int64_t>(few.tasks());
        parallel_loops(n_threads, Loop{n, Schedule::kDynamic, [&](int64_t i) { few.run(static_cast<size_t>(i)); }},
                       Loop{n, Schedule::kStatic, [&](int64_t i) { few.finish(static_cast<size_t>(i)); }});
        return Status::ok();
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory("attention: partial results, or a thread's workspace");
    }
}

}  // namespace atlas::kernels::cpu
