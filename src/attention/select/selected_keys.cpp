#include "attention/select/selected_keys.h"

#include <algorithm>
#include <bit>

namespace atlas::attention {
namespace {

/** The rows beside the tables of a call; nullptr: there are none. */
kv::KeyRows* rows_of(const AttentionCall& call, const Tiling& tiling) {
    // A tile of many tokens selects a good part of each page, and is done with it.
    if (tiling.tokens != 1 || !call.k.pages->is_paged()) return nullptr;
    return call.k.pages->key_rows(*call.v.pages, {call.args.n_head_kv, static_cast<size_t>(call.k.row_bytes),
                                                  static_cast<size_t>(call.v.row_bytes)});
}

kv::KeyRows::Version version_of(const AttentionCall& call, int64_t page) {
    return {call.k.pages->page_version(page), call.v.pages->page_version(page)};
}

}  // namespace

SelectedKeys::Source SelectedKeys::source_of(const AttentionCall& call, kv::KeyRows* rows, int64_t page) {
    Source& source = sources_[static_cast<size_t>(page)];
    if (source != Source::kUnknown) return source;
    const bool resident = !rows || (call.k.pages->is_resident(page) && call.v.pages->is_resident(page));
    if (resident && !(rows && call.k.pages->is_leaving(page))) {
        source = Source::kPage;
    } else if (!resident && rows->is_stored(page, version_of(call, page))) {
        source = Source::kRows;
    } else {
        // On disk and not yet stored by rows, or about to leave: its keys are to be in memory when it is gone.
        source = Source::kCopied;
        copied_.push_back({page, {}, {}});
    }
    if (source != Source::kRows) pages_.add(page);
    return source;
}

Status SelectedKeys::pin(const AttentionCall& call, const Tiling& tiling, std::span<const Selection> selections,
                         int64_t first, int64_t end) {
    kv::KeyRows* const rows = rows_of(call, tiling);
    Status status = pin_from(call, tiling, selections, first, end, rows);
    // Rows that cannot be read are left to their pages, which lie on disk too.
    const auto cannot_read = [&] { return status.code() == StatusCode::kIo || status.code() == StatusCode::kCorrupt; };
    if (rows && !wanted_.empty() && cannot_read()) status = pin_from(call, tiling, selections, first, end, rows);
    // More than the cache has room for: by pages then, or some at a time.
    if (rows && !wanted_.empty() && (cannot_read() || status.code() == StatusCode::kOutOfMemory))
        status = pin_from(call, tiling, selections, first, end, nullptr);
    return status;
}

Status SelectedKeys::pin_from(const AttentionCall& call, const Tiling& tiling, std::span<const Selection> selections,
                              int64_t first, int64_t end, kv::KeyRows* rows) {
    unpin();
    pages_.clear();
    wanted_.clear();
    copied_.clear();
    sources_.assign(static_cast<size_t>(call.k.pages->pages()), Source::kUnknown);
    const auto for_each = [&](auto visit) {
        for (size_t list = 0; list < selections.size(); ++list) {
            const auto at = static_cast<int64_t>(list);
            const int64_t base = call.base_page(tiling.stream(at));
            for (const PageCells& part : selections[list].selected) {
                const int64_t page = base + part.key / kv::kPageRows;
                if (page >= first && page < end) visit(at, page, part);
            }
        }
    };
    for_each([&](int64_t, int64_t page, const PageCells&) { source_of(call, rows, page); });
    if (Status status = cells_.pin(call, pages_.ranges(), rows ? kv::PinMode::kAside : kv::PinMode::kKeep);
        !status.is_ok())
        return status;
    if (rows) {
        store(call, rows);
        for_each([&](int64_t list, int64_t page, const PageCells& part) { want(page, tiling.head(list), part.cells); });
    }
    if (!wanted_.empty()) {
        if (Status status = rows->pin(wanted_, &rows_); !status.is_ok()) {
            unpin();
            return status;
        }
    }
    runs_.resize(selections.size());
    lists_.resize(selections.size());
    for (std::vector<kernels::Run>& runs : runs_) runs.clear();
    size_t next = 0;
    for_each([&](int64_t list, int64_t page, const PageCells& part) {
        std::vector<kernels::Run>& runs = runs_[static_cast<size_t>(list)];
        if (sources_[static_cast<size_t>(page)] != Source::kPage) {
            append_rows(call, part, tiling.head(list), *rows, &next, &runs);
        } else {
            cells_.append(call, tiling.stream(list), part, &runs);
        }
    });
    for (size_t list = 0; list < selections.size(); ++list)
        lists_[list] = list_of(call, tiling.head(static_cast<int64_t>(list)), runs_[list]);
    return Status::ok();
}

/** Stores the pages whose rows are copied, which are pinned; where there is no room for that they are read as pages. */
void SelectedKeys::store(const AttentionCall& call, kv::KeyRows* rows) {
    std::sort(copied_.begin(), copied_.end(), [](const Copied& a, const Copied& b) { return a.page < b.page; });
    for (Copied& page : copied_) {
        page.k = cells_.k_rows(call, page.page);
        page.v = cells_.v_rows(call, page.page);
        const kv::KeyRows::Version version = version_of(call, page.page);
        if (!rows->is_stored(page.page, version)) rows->store(page.page, version, page.k, page.v);
        if (!rows->is_stored(page.page, version)) sources_[static_cast<size_t>(page.page)] = Source::kPage;
    }
}

void SelectedKeys::want(int64_t page, int64_t head, uint64_t cells) {
    const Source source = sources_[static_cast<size_t>(page)];
    if (source == Source::kPage) return;
    kv::KeyRows::Wanted wanted{page, head, cells};
    if (source == Source::kCopied) {
        const auto at = std::lower_bound(copied_.begin(), copied_.end(), page,
                                         [](const Copied& copied, int64_t number) { return copied.page < number; });
        wanted.k = &at->k;
        wanted.v = &at->v;
    }
    wanted_.push_back(wanted);
}

/** The cells of a page, whose rows follow each other from `next` on, as runs of one key each. */
void SelectedKeys::append_rows(const AttentionCall& call, const PageCells& page, int64_t head, const kv::KeyRows& rows,
                               size_t* next, std::vector<kernels::Run>* out) const {
    const kernels::HeadRuns offsets = list_of(call, head, {});
    for (uint64_t left = page.cells; left != 0; left &= left - 1) {
        const auto row = reinterpret_cast<uintptr_t>(rows_.row((*next)++));
        // The kernels add the head's place in a cell, which these rows have not.
        const auto k = row - static_cast<uintptr_t>(offsets.k_offset);
        const auto v = row + rows.shape().k_bytes - static_cast<uintptr_t>(offsets.v_offset);
        // With gaps, as those of pages are: batches of the kernels are made up the same way.
        out->push_back({reinterpret_cast<const std::byte*>(k), reinterpret_cast<const std::byte*>(v),
                        static_cast<int32_t>(page.key + std::countr_zero(left)), 1, 1});
    }
}

}  // namespace atlas::attention
