#include <algorithm>
#include <limits>

#include "attention/engine.h"

namespace atlas::attention {

/** Every visible key, some pages of all streams at a time. */
Status Engine::exact_in_pieces(const AttentionCall& call, int n_threads) {
    const kernels::AttentionArgs& args = call.args;
    const int64_t pages = (call.n_keys + kv::kPageRows - 1) / kv::kPageRows;
    const auto rows = static_cast<size_t>(call.n_rows());
    lse_.resize(rows);
    selected_lse_.resize(rows);
    selected_out_.resize(rows * static_cast<size_t>(args.d_v));
    // K and V: half of the memory at first.
    int64_t most = std::max<int64_t>(1, 2 * call.k.pages->pages_at_once() / args.n_stream);
    for (int64_t first = 0; first < pages;) {
        const int64_t count = std::min(most, pages - first);
        pages_.clear();
        for (int64_t stream = 0; stream < args.n_stream; ++stream) pages_.add(call.base_page(stream) + first, count);
        if (Status status = near_cells_.pin(call, pages_.ranges(), kv::PinMode::kThrough); !status.is_ok()) {
            if (status.code() != StatusCode::kOutOfMemory || count == 1) return status;
            most = count / 2;
            continue;
        }
        near_runs_.resize(std::max(near_runs_.size(), static_cast<size_t>(args.n_stream)));
        near_lists_.clear();
        const int64_t key = first * kv::kPageRows;
        for (int64_t stream = 0; stream < args.n_stream; ++stream) {
            std::vector<kernels::Run>& runs = near_runs_[static_cast<size_t>(stream)];
            runs.clear();
            near_cells_.append(call, stream, KeyRange{key, std::min(count * kv::kPageRows, call.n_keys - key)}, &runs);
            for (int64_t head = 0; head < args.n_head_kv; ++head) near_lists_.push_back(list_of(call, head, runs));
        }
        kernels::AttentionArgs piece = first == 0 ? args : selected_args(call);
        piece.tokens_per_tile = std::numeric_limits<int64_t>::max();
        piece.runs = near_lists_.data();
        if (first == 0) piece.lse = lse_.data();
        const Status status = kernels::attention(piece, n_threads);
        near_cells_.unpin();
        if (!status.is_ok()) return status;
        if (first > 0) merge(call, true, n_threads);
        first += count;
    }
    return Status::ok();
}

/** What was selected, some pages at a time. */
Status Engine::selected_in_pieces(const AttentionCall& call, bool apart, int n_threads) {
    PageSet all;
    for (size_t list = 0; list < selections_.size(); ++list) {
        const int64_t base = call.base_page(tiling_.stream(static_cast<int64_t>(list)));
        for (const PageCells& page : selections_[list].selected) all.add(base + page.key / kv::kPageRows);
    }
    std::vector<int64_t> pages;
    for (const kv::PageRange& range : all.ranges()) {
        for (int64_t i = 0; i < range.count; ++i) pages.push_back(range.first + i);
    }
    auto most = static_cast<size_t>(2 * call.k.pages->pages_at_once());
    for (size_t first = 0; first < pages.size();) {
        const size_t count = std::min(most, pages.size() - first);
        Status status = selected_.pin(call, tiling_, selections_, pages[first], pages[first + count - 1] + 1);
        if (status.code() == StatusCode::kOutOfMemory && count > 1) {
            most = count / 2;
            continue;
        }
        if (status.is_ok()) status = attend_selected(call, apart, n_threads);
        if (!status.is_ok()) return status;
        first += count;
    }
    return Status::ok();
}

}  // namespace atlas::attention
