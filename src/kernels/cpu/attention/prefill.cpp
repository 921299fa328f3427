#include "kernels/cpu/attention/prefill.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/attention/mend_row.h"
#include "kernels/cpu/attention/prefill_tiles.h"
#include "kernels/cpu/attention/prefill_workspace.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention/prefill.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "kernels/cpu/attention/prefill-inl.h"

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {

static_assert(kRowBlock == kRows && kPad >= kWidth);
constexpr float kLog2E = 1.44269504088896341f;

class PrefillUnit {
public:
    PrefillUnit(const Problem& problem, const PrefillTask& task, const PrefillWorkspace& workspace)
        : p_(problem),
          args_(problem.args),
          task_(task),
          ws_(workspace),
          n_rows_(task.n_tokens * problem.group),
          n_masks_(masks_per_group(problem.args)),
          k_stride_(round_up(problem.args.d_k, kPad)),
          o_stride_(round_up(problem.args.d_v, kPad)),
          slices_(problem.args.d_v) {}

    void Run() {
        const int64_t padded = round_up(n_rows_, kRows);
        std::memset(ws_.o, 0, static_cast<size_t>(padded * o_stride_) * sizeof(float));
        std::fill_n(ws_.max, padded, -HUGE_VALF);
        std::memset(ws_.sum, 0, static_cast<size_t>(padded * kPad) * sizeof(float));
        std::memset(ws_.decoded, 0, static_cast<size_t>(4 * std::max(k_stride_, o_stride_)) * sizeof(float));
        for (int64_t h = 0; h < p_.group; ++h)
            ws_.slopes[h] = alibi_slope(args_.max_bias, HeadOf(h), args_.n_head) * kLog2E;
        PackQueries();
        const HeadRuns list = p_.runs(task_.stream, task_.kv_head, task_.list);
        TileWalker walker(args_, list, task_.begin, task_.end, task_.stream, task_.first_token, task_.n_tokens,
                          HeadOf(0), n_masks_, ws_.visibility, ws_.block_visibility, ws_.mask_rows, ws_.mask_tile);
        KeyTile tile, upcoming;
        while (walker.next(tile)) {
            PackKeys(tile);
            PackValues(tile, walker);
            walker.upcoming(upcoming);
            int64_t fetched = 0;
            const Segment* segment = upcoming.segments;
            int32_t in_segment = 0;
            for (int64_t row = 0; row < n_rows_; row += kRows) {
                Attend(walker, tile, row);
                const int64_t until = upcoming.n_keys * std::min(row + kRows, n_rows_) / n_rows_;
                for (; fetched < until; ++fetched) {
                    Prefetch(*segment, in_segment);
                    if (++in_segment == segment->count) {
                        in_segment = 0;
                        ++segment;
                    }
                }
            }
        }
        for (int64_t row = 0; row < n_rows_; ++row) Write(row);
    }

private:
    int64_t HeadOf(int64_t row) const { return task_.kv_head * p_.group + row % p_.group; }
    int64_t TokenOf(int64_t row) const { return task_.first_token + row / p_.group; }

    // Queries times what turns their scores into base-2 logits (or into the argument of the softcap's tanh).
    void PackQueries() const {
        const float factor = args_.softcap != 0.0f ? p_.q_scale : p_.q_scale * kLog2E;
        for (int64_t row = 0; row < round_up(n_rows_, kRows); ++row) {
            float* to = ws_.q + row / kRows * kRows * args_.d_k + row % kRows;
            if (row >= n_rows_) {
                for (int64_t i = 0; i < args_.d_k; ++i) to[i * kRows] = 0.0f;
                continue;
            }
            const float* from = p_.query(task_.stream, TokenOf(row), HeadOf(row));
            for (int64_t i = 0; i < args_.d_k; ++i) to[i * kRows] = from[i] * factor;
        }
    }

    void PackKeys(const KeyTile& tile) const {
        int column = 0;
        int filled = 0;
        const auto flush = [&] {
            for (int j = filled; j < 4; ++j)
                std::memset(ws_.decoded + j * k_stride_, 0, static_cast<size_t>(k_stride_) * sizeof(float));
            Transpose4(D(), ws_.decoded, k_stride_, args_.d_k, ws_.k_panel + column);
            column += 4;
            filled = 0;
        };
        for (int n = 0; n < tile.n_segments; ++n) {
            const Segment& segment = tile.segments[n];
            for (int32_t j = 0; j < segment.count;) {
                const int32_t count = std::min(4 - filled, segment.count - j);
                DecodeTo(p_.k_decode, args_.k_decode, segment.k + j * args_.k_stride, args_.k_stride, count, args_.d_k,
                         ws_.decoded + filled * k_stride_, k_stride_);
                j += count;
                filled += count;
                if (filled == 4) flush();
            }
        }
        if (filled > 0) flush();
        if (column == kTile) return;
        for (int64_t i = 0; i < args_.d_k; ++i)
            std::fill(ws_.k_panel + i * kTile + column, ws_.k_panel + (i + 1) * kTile, 0.0f);
    }

    void PackValues(const KeyTile& tile, const TileWalker& walker) const {
        int key = 0;
        for (int n = 0; n < tile.n_segments; ++n) {
            const Segment& segment = tile.segments[n];
            for (int32_t j = 0; j < segment.count; j += 4) {
                const int32_t count = std::min(4, segment.count - j);
                DecodeTo(p_.v_decode, args_.v_decode, segment.v + j * args_.v_stride, args_.v_stride, count, args_.d_v,
                         ws_.decoded, o_stride_);
                for (int32_t x = 0; x < count; ++x, ++key) {
                    float* row = ws_.decoded + x * o_stride_;
                    // 0 · whatever lies in a cell that nobody may see must stay 0.
                    if (!walker.key_visible(key)) std::memset(row, 0, static_cast<size_t>(o_stride_) * sizeof(float));
                    slices_.Scatter(row, key, ws_.v_panel);
                }
            }
        }
    }

    static void DecodeTo(DecodeFn decode, RowDecoder decoder, const std::byte* rows, int64_t stride, int32_t count,
                         int64_t d, float* out, int64_t out_stride) {
        if (decode == nullptr) {
            for (int32_t j = 0; j < count; ++j) decoder(rows + j * stride, out + j * out_stride, d);
        } else {
            decode(rows, static_cast<size_t>(stride), static_cast<size_t>(count), static_cast<size_t>(d), out,
                   static_cast<size_t>(out_stride));
        }
    }

    // Spread over the arithmetic of a tile, so that the next one's rows, far apart in memory, have arrived when they are packed.
    void Prefetch(const Segment& segment, int64_t key) const {
        const auto fetch = [](DataType type, const std::byte* row, int64_t d) {
            if (type == DataType::kOther) return;
            const auto bytes = static_cast<int64_t>(row_bytes(type, d));
            for (int64_t b = 0; b < bytes; b += 64) hwy::Prefetch(row + b);
        };
        fetch(args_.k_type, segment.k + key * args_.k_stride, args_.d_k);
        fetch(args_.v_type, segment.v + key * args_.v_stride, args_.d_v);
    }

    // One block of kRows rows against the packed tile.
    void Attend(const TileWalker& walker, const KeyTile& tile, int64_t first) const {
        const int64_t n = std::min<int64_t>(kRows, n_rows_ - first);
        BlockVisibility sees[kRows];
        const uint16_t* mask[kRows] = {};
        bool any = false;
        for (int64_t r = 0; r < n; ++r) {
            const int64_t token = (first + r) / p_.group, head = (first + r) % p_.group % n_masks_;
            sees[r] = walker.visibility(token, head);
            any |= sees[r] != BlockVisibility::kNone;
            if (sees[r] == BlockVisibility::kMixed) mask[r] = walker.mask_row(token, head);
        }
        if (!any) return;
        Scores(ws_.q + first * args_.d_k, ws_.k_panel, args_.d_k, ws_.s);
        for (int64_t r = 0; r < kRows; ++r) {
            const int64_t row = first + r;
            if (r >= n || sees[r] == BlockVisibility::kNone) {
                std::memset(ws_.s + r * kTile, 0, kTile * sizeof(float));
                ws_.correction[r] = 1.0f;
                continue;
            }
            const LogitTransform transform = {args_.softcap * kLog2E, mask[r], ws_.slopes[row % p_.group]};
            ws_.correction[r] = SoftmaxRow(ws_.s + r * kTile, transform, {ws_.max + row, ws_.sum + row * kPad});
        }
        AddValues(ws_.s, ws_.v_panel, tile.n_keys, slices_, ws_.correction, ws_.o + first * o_stride_, o_stride_);
    }

    void Write(int64_t row) const {
        const int64_t token = TokenOf(row), head = HeadOf(row);
        float max = ws_.max[row];
        float sum = hn::ReduceSum(D(), hn::Load(D(), ws_.sum + row * kPad));
        float factor = 1.0f;
        if (args_.sinks != nullptr && task_.partial == nullptr && args_.sinks[head] > -HUGE_VALF) {
            const float sink = args_.sinks[head] * kLog2E;
            const float top = std::max(max, sink);
            factor = std::exp2(max - top);
            sum = sum * factor + std::exp2(sink - top);
            max = top;
        }
        const bool nothing = sum == 0.0f;
        const float scale = nothing ? 0.0f : factor / sum;
        const float lse = nothing ? -HUGE_VALF : (max + std::log2(sum)) / kLog2E;
        const float* o = ws_.o + row * o_stride_;
        float* out;
        if (task_.partial != nullptr) {
            out = task_.partial + row * (1 + args_.d_v);
            *out++ = lse;
        } else {
            out = p_.out(task_.stream, token, head);
            if (args_.lse != nullptr) args_.lse[(task_.stream * args_.n_tokens + token) * args_.n_head + head] = lse;
        }
        for (int64_t i = 0; i < args_.d_v; ++i) out[i] = o[i] * scale;
        if (task_.partial == nullptr) mend_row(p_, task_.stream, token, head);
    }

    const Problem& p_;
    const AttentionArgs& args_;
    const PrefillTask& task_;
    const PrefillWorkspace& ws_;
    const int64_t n_rows_, n_masks_, k_stride_, o_stride_;
    const ValueSlices slices_;
};

void RunPrefill(const Problem& problem, const PrefillTask& task, float* workspace) {
    const PrefillWorkspace layout(problem.args, task.n_tokens, reinterpret_cast<std::byte*>(workspace));
    PrefillUnit(problem, task, layout).Run();
}

}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {

HWY_EXPORT(RunPrefill);

void run_prefill(const Problem& problem, const PrefillTask& task, float* workspace) {
    HWY_DYNAMIC_DISPATCH(RunPrefill)(problem, task, workspace);
}

int64_t prefill_rows(const AttentionArgs& args) {
    // A task's queries and results must stay in the L2 cache beside the packed tile; 1 MiB is what current cores have.
    constexpr int64_t kCacheBytes = 700 * 1024;
    constexpr int64_t kMinRows = 48, kMaxRows = 256;
    const int64_t per_row = (args.d_k + args.d_v + kPad) * 4;
    const int64_t panels = (args.d_k + args.d_v) * kBlockKeys * 4;
    return std::clamp((kCacheBytes - panels) / per_row, kMinRows, kMaxRows);
}

size_t prefill_workspace(const AttentionArgs& args, int64_t tokens) {
    return (PrefillWorkspace(args, tokens, nullptr).bytes + sizeof(float) - 1) / sizeof(float);
}

}  // namespace atlas::kernels::cpu
#endif
