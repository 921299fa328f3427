#include "attention/correct/far_probe.h"

#include <algorithm>
#include <cmath>

namespace atlas::attention {
namespace {

constexpr int64_t kPieceKeys = 16;

}  // namespace

float* output_of(const kernels::AttentionArgs& args, int64_t stream, int64_t token, int64_t head) {
    return reinterpret_cast<float*>(reinterpret_cast<std::byte*>(args.out) + stream * args.out_stream_stride +
                                    token * args.out_token_stride + head * args.out_head_stride);
}

void FarProbe::collect(const FarCall& call, const TileView& view, const FarResult& result, int64_t token) {
    ranges_.clear();
    const auto append = [&](int64_t key, int64_t count) {
        if (!ranges_.empty() && ranges_.back().key + ranges_.back().count == key) {
            ranges_.back().count += count;
        } else {
            ranges_.push_back({key, count});
        }
    };
    size_t next = 0;
    for (size_t page = 0; page < view.use.size(); ++page) {
        const auto first = static_cast<int64_t>(page) * kernels::kBlockKeys;
        while (next < result.selected.size() && result.selected[next].key < first) ++next;
        const bool far = view.use[page] == PageUse::kFar ||
                         (view.use[page] == PageUse::kFarSome &&
                          visibility_of(call.args, view.stream, token, static_cast<int64_t>(page)) ==
                              kernels::BlockVisibility::kAll);
        if (!far) continue;
        const bool some = next < result.selected.size() && result.selected[next].key == first;
        for_each_range({first, some ? ~result.selected[next].cells : ~uint64_t{0}}, append);
    }
}

/** Leaves a sample in ranges_; the number of keys that there were. */
int64_t FarProbe::sample(ProbeRandom* random) {
    int64_t total = 0;
    for (const KeyRange& range : ranges_) total += range.count;
    if (max_keys_ == 0 || total <= max_keys_) return total;
    sampled_.clear();
    const int64_t pieces = std::max<int64_t>(1, max_keys_ / kPieceKeys);
    size_t range = 0;
    int64_t before = 0;  // keys in the ranges before `range`
    for (int64_t i = 0; i < pieces; ++i) {
        const int64_t begin = total * i / pieces;
        const int64_t room = total * (i + 1) / pieces - begin - kPieceKeys;
        int64_t at = begin + static_cast<int64_t>(random->next() * static_cast<double>(std::max<int64_t>(room, 0) + 1));
        int64_t left = std::min(kPieceKeys, total - at);
        while (left > 0) {
            while (at >= before + ranges_[range].count) before += ranges_[range++].count;
            const int64_t inside = at - before;
            const int64_t count = std::min(left, ranges_[range].count - inside);
            sampled_.push_back({ranges_[range].key + inside, count});
            at += count;
            left -= count;
        }
    }
    ranges_.swap(sampled_);
    return total;
}

bool FarProbe::run(const FarCall& call, const TileView& view, const FarResult& result, int64_t kv_head, int64_t token,
                   int64_t member, ProbeRandom* random, float* out, float* lse) {
    const kernels::AttentionArgs& args = call.args;
    const kernels::HeadRuns& all = args.runs[view.stream * args.n_head_kv + kv_head];
    collect(call, view, result, token);
    const int64_t total = sample(random);
    runs_.clear();
    size_t at = 0;
    for (const KeyRange& range : ranges_) append_runs(args, all, range.key, range.count, &at, &runs_);
    if (runs_.empty()) return false;
    int64_t read = 0;
    for (const kernels::Run& run : runs_) read += run.count;
    keys_ += static_cast<uint64_t>(read);
    const kernels::HeadRuns list{runs_, all.k_offset, all.v_offset};
    kernels::AttentionArgs one = args;
    one.n_tokens = one.n_head = one.n_head_kv = one.n_stream = 1;
    one.q = query_of(args, view.stream, token, kv_head * (args.n_head / args.n_head_kv) + member);
    one.out = out;
    one.lse = lse;
    one.runs = &list;
    one.tokens_per_tile = 1;
    one.mask = {};
    if (!kernels::attention(one, 1).is_ok()) return false;
    *lse += static_cast<float>(std::log(static_cast<double>(total) / static_cast<double>(read)));
    return true;
}

}  // namespace atlas::attention
