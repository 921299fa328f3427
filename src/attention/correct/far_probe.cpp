#include "attention/correct/far_probe.h"

#include <algorithm>
#include <cmath>

#include "attention/plan/runs.h"

namespace atlas::attention {
namespace {

constexpr int64_t kPieceKeys = 16;

}  // namespace

void FarProbe::collect(const FarCall& far, const TileView& view, const Selection& result, int64_t token) {
    ranges_.clear();
    const auto append = [&](int64_t key, int64_t count) {
        if (!ranges_.empty() && ranges_.back().key + ranges_.back().count == key) {
            ranges_.back().count += count;
        } else {
            ranges_.push_back({key, count});
        }
    };
    size_t next = 0;
    size_t part = 0;
    const int64_t tokens = far.attention.args.mask.data ? view.tokens : 1;
    for (size_t page = 0; page < view.use.size(); ++page) {
        const auto first = static_cast<int64_t>(page) * kernels::kBlockKeys;
        while (next < result.selected.size() && result.selected[next].key < first) ++next;
        const bool whole = view.use[page] == PageUse::kFar ||
                           (view.use[page] == PageUse::kFarSome &&
                            visibility_of(far.attention, view.stream, token, static_cast<int64_t>(page)) ==
                                kernels::BlockVisibility::kAll);
        uint64_t cells = whole ? ~uint64_t{0} : 0;
        if (view.use[page] == PageUse::kFarPart) {
            cells = view.parts[part + static_cast<size_t>(far.attention.args.mask.data ? token - view.token0 : 0)];
            part += static_cast<size_t>(tokens);
        }
        if (next < result.selected.size() && result.selected[next].key == first) cells &= ~result.selected[next].cells;
        if (cells != 0) for_each_range({first, cells}, append);
    }
}

/** Takes keys of pages that are not in memory out of ranges_: an observation is not worth a read. */
void FarProbe::keep_resident(const AttentionCall& call, int64_t base_page) {
    if (!call.k.pages->is_paged()) return;
    sampled_.clear();
    for (const KeyRange& range : ranges_) {
        for (int64_t key = range.key; key < range.key + range.count;) {
            const int64_t page = key / kernels::kBlockKeys;
            const int64_t count = std::min((page + 1) * kernels::kBlockKeys, range.key + range.count) - key;
            if (call.k.pages->is_resident(base_page + page) && call.v.pages->is_resident(base_page + page))
                sampled_.push_back({key, count});
            key += count;
        }
    }
    ranges_.swap(sampled_);
}

/** Leaves a sample in ranges_. */
void FarProbe::sample(ProbeRandom* random) {
    int64_t total = 0;
    for (const KeyRange& range : ranges_) total += range.count;
    if (max_keys_ == 0 || total <= max_keys_) return;
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
}

bool FarProbe::run(const FarCall& far, const TileView& view, const Selection& result, int64_t kv_head, int64_t token,
                   int64_t member, ProbeRandom* random, float* out, float* lse) {
    const AttentionCall& call = far.attention;
    collect(far, view, result, token);
    int64_t total = 0;
    for (const KeyRange& range : ranges_) total += range.count;
    keep_resident(call, view.base_page);
    sample(random);
    runs_.clear();
    pages_.clear();
    for (const KeyRange& range : ranges_) {
        for (int64_t page = range.key / kernels::kBlockKeys; page * kernels::kBlockKeys < range.key + range.count;
             ++page)
            pages_.add(view.base_page + page);
    }
    if (ranges_.empty() || !cells_.pin(call, pages_.ranges(), kv::PinMode::kResident).is_ok()) return false;
    for (const KeyRange& range : ranges_) cells_.append(call, view.stream, range, &runs_);
    int64_t read = 0;
    for (const kernels::Run& run : runs_) read += run.count;
    keys_ += static_cast<uint64_t>(read);
    const kernels::HeadRuns list = list_of(call, kv_head, runs_);
    kernels::AttentionArgs one = call.args;
    one.n_tokens = one.n_head = one.n_head_kv = one.n_stream = 1;
    one.q = call.query(view.stream, token, kv_head * call.group() + member);
    one.out = out;
    one.lse = lse;
    one.runs = &list;
    one.tokens_per_tile = 1;
    one.mask = {};
    one.sinks = nullptr;
    const bool good = kernels::attention(one, 1).is_ok();
    cells_.unpin();
    if (!good) return false;
    *lse += static_cast<float>(std::log(static_cast<double>(total) / static_cast<double>(read)));
    return true;
}

}  // namespace atlas::attention
