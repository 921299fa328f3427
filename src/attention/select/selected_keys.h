#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/call.h"
#include "attention/plan/runs.h"
#include "attention/select/selection.h"
#include "base/status.h"
#include "kernels/attention.h"
#include "kv/key_rows.h"

namespace atlas::attention {

/**
 * The keys of all selections of one call in memory, and lists of them for the kernels: keys of pages that are in memory by their pages, those of pages on disk
 * row by row (kv::KeyRows), where every tile is one token. A list has the same keys in the same order wherever they lie. Not thread-safe; its buffers only grow.
 */
class SelectedKeys {
public:
    /** Those of pages first … end − 1 of the tables. Errors as kv::PageTable::pin. Throws std::bad_alloc. */
    Status pin(const AttentionCall& call, const Tiling& tiling, std::span<const Selection> selections, int64_t first,
               int64_t end);
    /** Per list; valid until the next pin. */
    const kernels::HeadRuns* lists() const { return lists_.data(); }
    bool is_empty(int64_t list) const { return runs_[static_cast<size_t>(list)].empty(); }
    /** Ends the pins. */
    void unpin() noexcept {
        cells_.unpin();
        rows_.unpin();
    }

private:
    /** Where the keys of a page are read; kCopied: from rows, which are copied from the page if they are missing. */
    enum class Source : uint8_t { kUnknown, kPage, kRows, kCopied };
    /** A page whose rows are copied from its memory. */
    struct Copied {
        int64_t page;
        kv::KeyRows::Source k, v;
    };
    Source source_of(const AttentionCall& call, kv::KeyRows* rows, int64_t page);
    Status pin_from(const AttentionCall& call, const Tiling& tiling, std::span<const Selection> selections,
                    int64_t first, int64_t end, kv::KeyRows* rows);
    void store(const AttentionCall& call, kv::KeyRows* rows);
    void want(int64_t page, int64_t head, uint64_t cells);
    void append_rows(const AttentionCall& call, const PageCells& page, int64_t head, const kv::KeyRows& rows,
                     size_t* next, std::vector<kernels::Run>* out) const;

    PinnedCells cells_;
    kv::PinnedRows rows_;
    std::vector<std::vector<kernels::Run>> runs_;  // per list
    std::vector<kernels::HeadRuns> lists_;
    std::vector<Source> sources_;  // per page of the tables
    std::vector<kv::KeyRows::Wanted> wanted_;
    std::vector<Copied> copied_;
    PageSet pages_;
};

}  // namespace atlas::attention
