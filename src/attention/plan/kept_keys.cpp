#include "attention/plan/kept_keys.h"

#include <algorithm>
#include <bit>

namespace atlas::attention {
namespace {

// Fewer pages seen in part are the usual ends of sequences.
constexpr int64_t kManyParts = 32;
// Single rows cost about twice what rows in order do.
constexpr int64_t kHiddenPerKept = 3;

}  // namespace

bool KeptKeys::find(const AttentionCall& call) {
    const kernels::AttentionArgs& args = call.args;
    if (!args.mask.data || !args.mask.summary || args.mask.n_heads != 1 || args.n_tokens > kMostTokens ||
        !call.in_cells())
        return false;
    const int64_t pages = (call.n_keys + kv::kPageRows - 1) / kv::kPageRows;
    const auto part = [&](int64_t stream, int64_t token, int64_t page) {
        return visibility_of(call, stream, token, page) == kernels::BlockVisibility::kMixed;
    };
    int64_t parts = 0;
    for (int64_t page = 0; page < pages; ++page) parts += part(0, 0, page) ? 1 : 0;
    if (parts < kManyParts) return false;
    const auto n = static_cast<size_t>(args.n_stream * args.n_tokens);
    if (kept_.size() < n) kept_.resize(n);
    int64_t kept = 0, in_parts = 0;
    for (int64_t stream = 0; stream < args.n_stream; ++stream) {
        for (int64_t token = 0; token < args.n_tokens; ++token) {
            std::vector<PageCells>& list = kept_[static_cast<size_t>(stream * args.n_tokens + token)];
            list.clear();
            for (int64_t page = 0; page < pages; ++page) {
                const int64_t first = page * kv::kPageRows;
                const auto seen = visibility_of(call, stream, token, page);
                if (seen == kernels::BlockVisibility::kNone) continue;
                const uint64_t cells = visible_cells(call, stream, token, page);
                list.push_back({first, cells});
                if (seen != kernels::BlockVisibility::kMixed) continue;
                kept += std::popcount(cells);
                in_parts += std::min<int64_t>(kv::kPageRows, call.n_keys - first);
            }
        }
    }
    return in_parts - kept > kHiddenPerKept * kept;
}

Status KeptKeys::pin(const AttentionCall& call, const kernels::HeadRuns** lists) {
    const kernels::AttentionArgs& args = call.args;
    const auto n = static_cast<size_t>(args.n_stream * args.n_tokens);
    pages_.clear();
    for (size_t i = 0; i < n; ++i) {
        const int64_t base = call.base_page(static_cast<int64_t>(i) / args.n_tokens);
        for (const PageCells& cells : kept_[i]) pages_.add(base + cells.key / kv::kPageRows);
    }
    if (Status status = cells_.pin(call, pages_.ranges()); !status.is_ok()) return status;
    if (runs_.size() < n) runs_.resize(n);
    for (size_t i = 0; i < n; ++i) {
        const int64_t stream = static_cast<int64_t>(i) / args.n_tokens;
        runs_[i].clear();
        for (const PageCells& cells : kept_[i]) {
            if (cells.cells == ~uint64_t{0}) {
                cells_.append(call, stream, KeyRange{cells.key, kv::kPageRows}, &runs_[i]);
            } else {
                cells_.append(call, stream, cells, &runs_[i]);
            }
        }
    }
    lists_.clear();
    for (int64_t stream = 0; stream < args.n_stream; ++stream) {
        for (int64_t head = 0; head < args.n_head_kv; ++head) {
            for (int64_t token = 0; token < args.n_tokens; ++token)
                lists_.push_back(list_of(call, head, runs_[static_cast<size_t>(stream * args.n_tokens + token)]));
        }
    }
    *lists = lists_.data();
    return Status::ok();
}

}  // namespace atlas::attention
