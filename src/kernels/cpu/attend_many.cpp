#include <atomic>
#include <cmath>
#include <limits>
#include <new>
#include <vector>

#include "kernels/cpu/problem.h"
#include "kernels/row_codec.h"

namespace atlas::kernels::cpu {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
// Queries, results and one block of K and V of a task should stay in a second-level cache of 1 MiB.
constexpr size_t kTaskBytes = size_t{640} << 10;
constexpr size_t kMaxTiles = 8;

/** Up to kMaxTiles tiles of kTileQueries rows of one KV head, which share every decoded block of K and V. */
struct Task {
    int64_t stream, kv_head, list;
    int64_t row0, rows;  // rows within the list
};

class ManyQueries {
public:
    ManyQueries(const Problem& problem, int n_threads) : p_(problem) {
        const AttentionArgs& args = p_.args;
        const auto d = static_cast<size_t>(args.d_k + args.d_v);
        size_t tiles = std::clamp<size_t>(kTaskBytes / (d * kTileQueries * sizeof(float)), 1, kMaxTiles);
        const int64_t list_rows = p_.tokens_per_list * p_.group;
        const int64_t all_rows = args.n_stream * args.n_head_kv * args.n_tokens * p_.group;
        // Enough tasks for every thread to have a few.
        while (tiles > 1 && all_rows / static_cast<int64_t>(tiles * kTileQueries) < 4 * n_threads) tiles /= 2;
        tiles_ = tiles;
        const auto task_rows = static_cast<int64_t>(tiles * kTileQueries);
        for (int64_t stream = 0; stream < args.n_stream; ++stream) {
            for (int64_t kv_head = 0; kv_head < args.n_head_kv; ++kv_head) {
                for (int64_t list = 0; list < p_.lists; ++list) {
                    const int64_t rows = std::min(list_rows, (args.n_tokens - list * p_.tokens_per_list) * p_.group);
                    for (int64_t row = 0; row < rows; row += task_rows) {
                        tasks_.push_back({stream, kv_head, list, row, std::min(task_rows, rows - row)});
                    }
                }
            }
        }
    }

    size_t tasks() const { return tasks_.size(); }

    /** Throws std::bad_alloc. */
    void run(size_t index) const {
        // Later tokens see more keys: starting with them keeps the threads even at the end.
        const Task& task = tasks_[tasks_.size() - 1 - index];
        const AttentionArgs& args = p_.args;
        const auto dk = static_cast<size_t>(args.d_k);
        const auto dv = static_cast<size_t>(args.d_v);
        Buffers b{};
        const size_t tiles = (static_cast<size_t>(task.rows) + kTileQueries - 1) / kTileQueries;
        float* memory = thread_scratch().get(tiles_ * kTileQueries * (dk + dv + 3) + kBlockKeys * (dk + dv + kTileQueries + 1));
        const auto take = [&](size_t floats) {
            float* part = memory;
            memory += floats;
            return part;
        };
        b.q = take(tiles_ * kTileQueries * dk);
        b.o = take(tiles_ * kTileQueries * dv);
        b.max = take(tiles_ * kTileQueries);
        b.sum = take(tiles_ * kTileQueries);
        b.shrink = take(tiles_ * kTileQueries);
        b.k = take(kBlockKeys * dk);
        b.v = take(kBlockKeys * dv);
        b.s = take(kBlockKeys * kTileQueries);
        b.mask = take(kBlockKeys);

        load_queries(task, tiles, b.q);
        std::fill(b.o, b.o + tiles * kTileQueries * dv, 0.0f);
        std::fill(b.max, b.max + tiles * kTileQueries, kMinusInfinity);
        std::fill(b.sum, b.sum + tiles * kTileQueries, 0.0f);
        for_each_piece(args, p_.runs(task.stream, task.kv_head, task.list), 0, INT64_MAX,
                       [&](const Piece& piece) { add(task, tiles, piece, b); });
        finish(task, b);
    }

private:
    struct Buffers {
        float *q, *o, *max, *sum, *shrink, *k, *v, *s, *mask;
    };

    int64_t token_of(const Task& task, int64_t row) const { return task.list * p_.tokens_per_list + (task.row0 + row) / p_.group; }
    int64_t head_of(const Task& task, int64_t row) const { return task.kv_head * p_.group + (task.row0 + row) % p_.group; }

    /** q[tile][i][r], scaled; lanes without a row are 0. */
    void load_queries(const Task& task, size_t tiles, float* q) const {
        const auto dk = static_cast<size_t>(p_.args.d_k);
        std::fill(q, q + tiles * kTileQueries * dk, 0.0f);
        for (int64_t row = 0; row < task.rows; ++row) {
            const float* from = p_.query(task.stream, token_of(task, row), head_of(task, row));
            const auto r = static_cast<size_t>(row);
            float* to = q + r / kTileQueries * kTileQueries * dk + r % kTileQueries;
            for (size_t i = 0; i < dk; ++i) to[i * kTileQueries] = from[i] * p_.q_scale;
        }
    }

    BlockVisibility tile_visibility(const Task& task, int64_t row0, int64_t rows, int64_t key) const {
        bool any = false;
        bool mixed = false;
        // One look per token, or per row where heads have masks of their own.
        const int64_t step = p_.args.mask.n_heads > 1 ? 1 : p_.group;
        for (int64_t row = row0; row < row0 + rows; row += step - (task.row0 + row) % step) {
            const BlockVisibility sees = p_.visibility(task.stream, token_of(task, row), head_of(task, row), key);
            any |= sees != BlockVisibility::kNone;
            mixed |= sees != BlockVisibility::kAll;
        }
        return !any ? BlockVisibility::kNone : mixed ? BlockVisibility::kMixed : BlockVisibility::kAll;
    }

    void add(const Task& task, size_t tiles, const Piece& piece, const Buffers& b) const {
        const AttentionArgs& args = p_.args;
        const auto dk = static_cast<size_t>(args.d_k);
        const auto dv = static_cast<size_t>(args.d_v);
        bool decoded = false;
        for (size_t tile = 0; tile < tiles; ++tile) {
            const auto row0 = static_cast<int64_t>(tile * kTileQueries);
            const int64_t rows = std::min<int64_t>(kTileQueries, task.rows - row0);
            const BlockVisibility sees = tile_visibility(task, row0, rows, piece.key);
            if (sees == BlockVisibility::kNone) continue;
            if (!decoded) {
                decode_rows(p_.ops, args.k_type, args.k_decode, piece.k, args.k_stride, piece.count, args.d_k, b.k);
                decode_rows(p_.ops, args.v_type, args.v_decode, piece.v, args.v_stride, piece.count, args.d_v, b.v);
                decoded = true;
            }
            p_.ops.tile_score(b.q + tile * kTileQueries * dk, b.k, piece.count, dk, b.s);
            if (args.softcap != 0.0f) p_.ops.soft_cap(b.s, piece.count * kTileQueries, args.softcap);
            if (sees == BlockVisibility::kMixed) add_mask(task, row0, rows, piece, b);
            float* shrink = b.shrink + tile * kTileQueries;
            const bool shrinks =
                p_.ops.tile_softmax(b.s, piece.count, b.max + tile * kTileQueries, b.sum + tile * kTileQueries, shrink);
            p_.ops.tile_value(b.v, b.s, piece.count, dv, shrinks ? shrink : nullptr, b.o + tile * kTileQueries * dv);
        }
    }

    void add_mask(const Task& task, int64_t row0, int64_t rows, const Piece& piece, const Buffers& b) const {
        const uint16_t* converted = nullptr;
        for (int64_t row = row0; row < row0 + rows; ++row) {
            const int64_t head = head_of(task, row);
            const uint16_t* mask = p_.mask_row(task.stream, token_of(task, row), head) + piece.key;
            if (mask != converted) {
                for (size_t j = 0; j < piece.count; ++j) b.mask[j] = mask[j] == 0 ? 0.0f : f16_to_f32(mask[j]);
                converted = mask;
            }
            const float slope = alibi_slope(p_.args.max_bias, head, p_.args.n_head);
            float* s = b.s + row - row0;
            // slope · −inf would be NaN for a slope of 0.
            for (size_t j = 0; j < piece.count; ++j) {
                s[j * kTileQueries] = b.mask[j] == kMinusInfinity ? kMinusInfinity : s[j * kTileQueries] + slope * b.mask[j];
            }
        }
    }

    void finish(const Task& task, const Buffers& b) const {
        const AttentionArgs& args = p_.args;
        const auto dv = static_cast<size_t>(args.d_v);
        for (int64_t row = 0; row < task.rows; ++row) {
            const int64_t token = token_of(task, row);
            const int64_t head = head_of(task, row);
            const auto r = static_cast<size_t>(row);
            const float* from = b.o + r / kTileQueries * kTileQueries * dv + r % kTileQueries;
            float* out = p_.out(task.stream, token, head);
            const float max = args.sinks ? std::max(b.max[r], args.sinks[head]) : b.max[r];
            float factor = 0.0f;
            float lse = kMinusInfinity;
            if (max != kMinusInfinity) {
                const float shrink = std::exp(b.max[r] - max);
                const float sum = b.sum[r] * shrink + (args.sinks ? std::exp(args.sinks[head] - max) : 0.0f);
                factor = shrink / sum;
                lse = max + std::log(sum);
            }
            for (size_t i = 0; i < dv; ++i) out[i] = from[i * kTileQueries] * factor;
            if (args.lse) args.lse[(task.stream * args.n_tokens + token) * args.n_head + head] = lse;
        }
    }

    const Problem& p_;
    size_t tiles_ = 1;
    std::vector<Task> tasks_;
};

}  // namespace

Status attend_many(const Problem& problem, int n_threads) {
    try {
        const ManyQueries many(problem, n_threads);
        std::atomic<size_t> next{0};
        std::atomic<bool> failed{false};
        const int threads = static_cast<int>(std::min<size_t>(static_cast<size_t>(n_threads), many.tasks()));
#pragma omp parallel num_threads(threads) if (threads > 1)
        for (size_t i = next++; i < many.tasks(); i = next++) {
            try {
                many.run(i);
            } catch (const std::bad_alloc&) {
                failed = true;
            }
        }
        return failed ? Status::out_of_memory("attention: workspace of a thread") : Status::ok();
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory("attention: list of tasks");
    }
}

}  // namespace atlas::kernels::cpu
