#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "attention/call.h"
#include "attention/plan/visibility.h"
#include "base/status.h"
#include "kernels/attention.h"
#include "kv/key_rows.h"
#include "kv/page_pins.h"

namespace atlas::attention {

/**
 * Pages of K and V of one call, pinned together, and runs of keys in them: the only way from keys to addresses. The call must be
 * AttentionCall::in_cells(). Runs are valid until pin() or the end. Appending may be done by several threads, each to a vector of its own.
 */
class PinnedCells {
public:
    /** Pages counted from the table's start, ascending. Errors as kv::PageTable::pin. Throws std::bad_alloc. */
    Status pin(const AttentionCall& call, std::span<const kv::PageRange> pages, kv::PinMode mode = kv::PinMode::kKeep);

    /** Keys of a stream, counted from its key 0, whose pages are pinned, as runs; neighbours in memory become one. Throws std::bad_alloc. */
    void append(const AttentionCall& call, int64_t stream, const KeyRange& keys, std::vector<kernels::Run>* out) const;
    /** Some keys of one page as one run. */
    void append(const AttentionCall& call, int64_t stream, const PageCells& cells,
                std::vector<kernels::Run>* out) const;
    /** Rows of the 64 keys of a page (of the stream) and head as f32: k [64][d_k], v [64][d_v]; either may be null. */
    void decode(const AttentionCall& call, int64_t stream, int64_t page, int64_t head, float* k, float* v) const;

    /** Rows of all heads of a pinned page of the tables. */
    kv::KeyRows::Source k_rows(const AttentionCall& call, int64_t page) const;
    kv::KeyRows::Source v_rows(const AttentionCall& call, int64_t page) const;

    /** Ends it early. */
    void unpin() noexcept {
        k_.unpin();
        v_.unpin();
    }

private:
    kv::Pinned k_, v_;
};

/** `runs` of a stream as a list of one KV head. */
kernels::HeadRuns list_of(const AttentionCall& call, int64_t head, std::span<const kernels::Run> runs);

/** A set of pages, one bit each: added in any order, read in theirs. Its buffers only grow. */
class PageSet {
public:
    void clear() { words_.clear(); }
    /** Throws std::bad_alloc. */
    void add(int64_t page) {
        const auto word = static_cast<size_t>(page / 64);
        if (word >= words_.size()) words_.resize(word + 1);
        words_[word] |= uint64_t{1} << page % 64;
    }
    void add(int64_t page, int64_t count) {
        for (int64_t i = 0; i < count; ++i) add(page + i);
    }
    /** Neighbours joined, ascending; valid until the next call. Throws std::bad_alloc. */
    std::span<const kv::PageRange> ranges();

private:
    std::vector<uint64_t> words_;
    std::vector<kv::PageRange> ranges_;
};

/**
 * Lists of all keys of a call, wherever they lie, for exact attention. Those of pages are kept from call to call, and mended where a page has come into being
 * or moved. Not thread-safe.
 */
class AllKeys {
public:
    /** lists [stream][KV head], valid until the next call; pages stay pinned as long. Errors as kv::PageTable::pin. Throws std::bad_alloc. */
    Status find(const AttentionCall& call, const kernels::HeadRuns** lists);
    /** Ends the pins. */
    void unpin() noexcept {
        k_.unpin();
        v_.unpin();
    }

private:
    struct Lists {
        int64_t n_keys = 0, n_streams = 0, first_page = -1, stream_pages = 0;
        int64_t k_inside = 0, v_inside = 0;
        std::vector<kernels::Run> runs;  // [stream][page]
        std::vector<kernels::HeadRuns> heads;
    };
    Status pin_all(const AttentionCall& call);
    void add_pages(const AttentionCall& call, const KvRows& rows, PageSet* pages) const;
    void mend(const AttentionCall& call, Lists* lists) const;
    void build(const AttentionCall& call, Lists* lists) const;

    std::map<std::pair<uint64_t, uint64_t>, Lists> kept_;  // by the ids of K and V
    Lists other_;
    PageSet k_pages_, v_pages_;
    kv::Pinned k_, v_;
};

}  // namespace atlas::attention
