#include "kernels/cpu/attention/prefill.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/attention/mend_row.h"
#include "kernels/cpu/attention/prefill_tiles.h"
#include "kernels/cpu/attention/prefill_workspace.h"
#include "kernels/cpu/attention/split_tile.h"
#include "kernels/cpu/amx/usable.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention/prefill.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "kernels/cpu/attention/prefill-inl.h"

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {

static_assert(kVectorShape.row_block == kRows && kSumLanes >= kWidth);
constexpr float kLog2E = 1.44269504088896341f;

template <class Products>
class PrefillUnit {
public:
    PrefillUnit(const Problem& problem, const PrefillTask& task, const PrefillWorkspace& workspace)
        : p_(problem),
          args_(problem.args),
          task_(task),
          ws_(workspace),
          n_rows_(task.n_tokens * problem.group),
          n_padded_(round_up(n_rows_, kBlockRows)),
          n_masks_(masks_per_group(problem.args)),
          k_stride_(round_up(problem.args.d_k, kPad)),
          o_stride_(round_up(problem.args.d_v, kPad)),
          products_(problem.args, workspace, n_padded_) {}

    void Run() {
        std::memset(ws_.o, 0, static_cast<size_t>(n_padded_ * o_stride_) * sizeof(float));
        std::fill_n(ws_.max, n_padded_, -HUGE_VALF);
        std::memset(ws_.sum, 0, static_cast<size_t>(n_padded_ * kSumLanes) * sizeof(float));
        std::memset(ws_.decoded, 0, static_cast<size_t>(kDecodeRows * std::max(k_stride_, o_stride_)) * sizeof(float));
        for (int64_t h = 0; h < p_.group; ++h)
            ws_.slopes[h] = alibi_slope(args_.max_bias, HeadOf(h), args_.n_head) * kLog2E;
        PackQueries();
        const HeadRuns list = p_.runs(task_.stream, task_.kv_head, task_.list);
        TileWalker walker(args_, list, task_.begin, task_.end, task_.stream, task_.first_token, task_.n_tokens,
                          HeadOf(0), n_masks_, ws_.visibility, ws_.block_visibility, ws_.mask_rows, ws_.mask_tile);
        KeyTile tile, upcoming;
        while (walker.next(tile)) {
            products_.end_keys(Pack(tile, walker, p_.k_decode, args_.k_decode, args_.k_stride, &Segment::k, args_.d_k,
                                    k_stride_, [&](int column) { products_.put_keys(column); }));
            products_.end_values(Pack(tile, walker, p_.v_decode, args_.v_decode, args_.v_stride, &Segment::v, args_.d_v,
                                      o_stride_, [&](int key) { products_.put_values(key); }));
            walker.upcoming(upcoming);
            int64_t fetched = 0;
            const Segment* segment = upcoming.segments;
            int32_t in_segment = 0;
            for (int64_t row = 0; row < n_rows_; row += kBlockRows) {
                Attend(walker, tile, row);
                const int64_t until = upcoming.n_keys * std::min(row + kBlockRows, n_rows_) / n_rows_;
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
    static constexpr int kBlockRows = static_cast<int>(Products::kShape.row_block);
    static constexpr int kDecodeRows = static_cast<int>(Products::kShape.decode_rows);

    int64_t HeadOf(int64_t row) const { return task_.kv_head * p_.group + row % p_.group; }
    int64_t TokenOf(int64_t row) const { return task_.first_token + row / p_.group; }

    // Queries times what turns their scores into base-2 logits (or into the argument of the softcap's tanh).
    void PackQueries() const {
        const float factor = args_.softcap != 0.0f ? p_.q_scale : p_.q_scale * kLog2E;
        for (int64_t row = 0; row < n_padded_; ++row)
            products_.put_query(row, row < n_rows_ ? p_.query(task_.stream, TokenOf(row), HeadOf(row)) : nullptr,
                                factor);
    }

    /** Decodes a tile's rows, kDecodeRows at a time, with zeros at the end; calls put(number of the first). Returns how many were put. */
    template <class Put>
    int Pack(const KeyTile& tile, const TileWalker& walker, DecodeFn decode, RowDecoder decoder, int64_t stride,
             const std::byte* Segment::* rows, int64_t d, int64_t out_stride, const Put& put) const {
        int done = 0, filled = 0;
        const auto bytes = static_cast<size_t>(out_stride) * sizeof(float);
        const auto flush = [&] {
            // 0 · whatever lies in a cell that nobody may see must stay 0.
            for (int j = 0; j < kDecodeRows; ++j) {
                if (j >= filled || !walker.key_visible(done + j)) std::memset(ws_.decoded + j * out_stride, 0, bytes);
            }
            put(done);
            done += kDecodeRows;
            filled = 0;
        };
        for (int n = 0; n < tile.n_segments; ++n) {
            const Segment& segment = tile.segments[n];
            for (int32_t j = 0; j < segment.count;) {
                const int32_t count = std::min(kDecodeRows - filled, segment.count - j);
                DecodeTo(decode, decoder, segment.*rows + j * stride, stride, count, d,
                         ws_.decoded + filled * out_stride, out_stride);
                j += count;
                filled += count;
                if (filled == kDecodeRows) flush();
            }
        }
        if (filled > 0) flush();
        return done;
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

    // One block of rows against the packed tile.
    void Attend(const TileWalker& walker, const KeyTile& tile, int64_t first) const {
        const int64_t n = std::min<int64_t>(kBlockRows, n_rows_ - first);
        BlockVisibility sees[kBlockRows];
        const uint16_t* mask[kBlockRows] = {};
        bool any = false;
        for (int64_t r = 0; r < n; ++r) {
            const int64_t token = (first + r) / p_.group, head = (first + r) % p_.group % n_masks_;
            sees[r] = walker.visibility(token, head);
            any |= sees[r] != BlockVisibility::kNone;
            if (sees[r] == BlockVisibility::kMixed) mask[r] = walker.mask_row(token, head);
        }
        if (!any) return;
        products_.scores(first, n);
        for (int64_t r = 0; r < kBlockRows; ++r) {
            const int64_t row = first + r;
            if (r >= n || sees[r] == BlockVisibility::kNone) {
                products_.weigh_nothing(r);
                ws_.correction[r] = 1.0f;
                continue;
            }
            const LogitTransform transform = {args_.softcap * kLog2E, mask[r], ws_.slopes[row % p_.group]};
            Transform(ws_.s + r * kTile, transform);
            ws_.correction[r] = products_.weigh(r, kSlack, ws_.max + row, ws_.sum + row * kSumLanes);
        }
        products_.add_values(first, n, tile.n_keys);
    }

    void Write(int64_t row) const {
        const int64_t token = TokenOf(row), head = HeadOf(row);
        float max = ws_.max[row];
        float sum = hn::ReduceSum(D(), hn::Load(D(), ws_.sum + row * kSumLanes));
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
    const int64_t n_rows_, n_padded_, n_masks_, k_stride_, o_stride_;
    const Products products_;
};

template <class Products>
void RunPrefill(const Problem& problem, const PrefillTask& task, float* workspace) {
    const PrefillWorkspace layout(problem.args, Products::kShape, task.n_tokens,
                                  reinterpret_cast<std::byte*>(workspace));
    PrefillUnit<Products>(problem, task, layout).Run();
}

void RunPrefillVectors(const Problem& problem, const PrefillTask& task, float* workspace) {
    RunPrefill<VectorProducts>(problem, task, workspace);
}
void RunPrefillTiles(const Problem& problem, const PrefillTask& task, float* workspace) {
    RunPrefill<SplitProducts>(problem, task, workspace);
}

}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {

HWY_EXPORT(RunPrefillVectors);
HWY_EXPORT(RunPrefillTiles);

namespace {

const PrefillShape& shape_in_use() { return amx_usable() ? kSplitShape : kVectorShape; }

}  // namespace

void run_prefill(const Problem& problem, const PrefillTask& task, float* workspace) {
    if (amx_usable()) {
        HWY_DYNAMIC_DISPATCH(RunPrefillTiles)(problem, task, workspace);
    } else {
        HWY_DYNAMIC_DISPATCH(RunPrefillVectors)(problem, task, workspace);
    }
}

int64_t prefill_rows(const AttentionArgs& args) {
    // A task's queries and results must stay in the L2 cache beside the packed tile; 1 MiB is what current cores have.
    constexpr int64_t kCacheBytes = 700 * 1024;
    constexpr int64_t kMinRows = 48;
    const int64_t per_row = (args.d_k + args.d_v + kSumLanes) * 4;
    const int64_t panels = (args.d_k + args.d_v) * kBlockKeys * 4;
    return std::clamp((kCacheBytes - panels) / per_row, kMinRows, shape_in_use().most_rows);
}

size_t prefill_workspace(const AttentionArgs& args, int64_t tokens) {
    return (PrefillWorkspace(args, shape_in_use(), tokens, nullptr).bytes + sizeof(float) - 1) / sizeof(float);
}

}  // namespace atlas::kernels::cpu
#endif
