#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <new>
#include <vector>

#include "kernels/codes.h"
#include "kv/budget.h"
#include "kv/page_table.h"

namespace atlas::attention {

/** Changes with every write to what it is of, of K and of V. */
struct PageVersion {
    uint64_t k = 0, v = 0;
    bool operator==(const PageVersion&) const = default;
};

/**
 * What is known of the keys of one K/V cache pair without reading them: per page and KV head the codes of its 64 keys and their mean value
 * (kernels/codes.h), about 8 % of an f16 cache. A page is encoded when the planner first needs it, and again when it changed since (versions), so
 * that the paths that write need not know of it. Different (page, head) pairs may be updated at the same time; reading needs updates to have ended.
 */
class KeyIndex {
public:
    /** k, v and the budget that codes count in, if there is one, outlive the index. */
    KeyIndex(const kv::PageTable& k, const kv::PageTable& v, int64_t n_head_kv, int64_t d_k, int64_t d_v,
             kv::Budget* budget = nullptr);
    ~KeyIndex();
    KeyIndex(const KeyIndex&) = delete;
    KeyIndex& operator=(const KeyIndex&) = delete;

    bool fits(int64_t n_head_kv, int64_t d_k, int64_t d_v) const {
        return n_head_kv == n_heads_ && d_k == d_k_ && d_v == d_v_;
    }
    int64_t pages() const { return static_cast<int64_t>(pages_.size()); }
    int64_t n_heads() const { return n_heads_; }
    const kernels::CodeShape& shape() const { return shape_; }
    /** Of the rotation, [2][shape().d]: the same for all heads, so that a query is rotated once. */
    const float* signs() const { return signs_.data(); }

    PageVersion version(int64_t page) const { return {k_.page_version(page), v_.page_version(page)}; }
    /** When tokens were last written to the page. A context shift writes K alone, which makes no token more recent. */
    uint64_t epoch(int64_t page) const { return std::min(k_.page_epoch(page), v_.page_epoch(page)); }
    /** Of all pages of a chunk of kv::kChunkPages pages. */
    PageVersion chunk_version(int64_t chunk) const { return {k_.chunk_version(chunk), v_.chunk_version(chunk)}; }
    /** A number that no index over other tensors of this process has or had. */
    uint64_t id() const { return k_.id(); }

    /** Whether the page is encoded as it is now. */
    bool fresh(int64_t page) const {
        const Page& known = pages_[static_cast<size_t>(page)];
        return known.encoded && known.version == version(page);
    }
    /** Whether the codes, and means of parts, say something: not those of a page that holds a key or a value that is not finite. */
    bool usable(int64_t page) const { return !pages_[static_cast<size_t>(page)].broken; }
    const std::byte* codes(int64_t page, int64_t head) const {
        return chunks_[static_cast<size_t>(page / kChunk)].get() + offset_in_chunk(page, head);
    }

    /** Makes room for the page's codes; false where the budget has none. Not thread-safe. Throws std::bad_alloc. */
    [[nodiscard]] bool reserve(int64_t page);
    /** To be called before the heads of a page are updated, and after reserve(). Not thread-safe. */
    void begin(int64_t page);
    /** Encodes one head of a page from its rows, k [64][d_k], v [64][d_v]; `work` only grows. Throws std::bad_alloc. */
    void update(int64_t page, int64_t head, const float* k, const float* v, std::vector<float>* work);
    /** To be called after all heads. */
    void end(int64_t page) { pages_[static_cast<size_t>(page)].encoded = true; }

    /**
     * Mean values of a part of a page's keys, for tokens that see no more of it (sequences whose cells alternate). begin_call comes before what one call
     * asks for: parts that has_part found or begin_part made since then stay, however many a page has. has_part: whether there is one as the page is now.
     * begin_part makes room, forgetting the oldest of a page that has kMostParts, and throws std::bad_alloc; update_part, of each head, may run for
     * different heads at the same time. All of a page that is not being encoded; all but update_part not thread-safe.
     */
    static constexpr size_t kMostParts = 16;
    void begin_call() { ++call_; }
    bool has_part(int64_t page, uint64_t cells);
    void begin_part(int64_t page, uint64_t cells);
    void update_part(int64_t page, uint64_t cells, int64_t head, const float* v);
    /** The part must be there, or `cells` be all. */
    kernels::ValueMean mean_of(int64_t page, uint64_t cells, int64_t head) const;

    uint64_t bytes() const { return bytes_; }

private:
    struct Part {
        uint64_t cells;
        uint64_t call;              // the last one that asked for it
        std::vector<int8_t> means;  // [head][d_v]
        std::vector<float> scales;  // [head]
    };
    /** A chunk is [head][page]: a head's codes are scanned in order, which the processor's own prefetching follows. */
    size_t offset_in_chunk(int64_t page, int64_t head) const {
        return static_cast<size_t>(head * kChunk + page % kChunk) * shape_.bytes;
    }
    const Part* find_part(int64_t page, uint64_t cells) const;
    size_t part_bytes() const;

    /** Pages whose codes are allocated together: neighbours in a scan. */
    static constexpr int64_t kChunk = 16;
    struct Page {
        PageVersion version;  // when its codes were begun
        bool encoded = false;
        std::atomic<bool> broken{false};  // some head is not finite
    };
    struct Free {
        void operator()(std::byte* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
    };
    const kv::PageTable& k_;
    const kv::PageTable& v_;
    const int64_t n_heads_;
    const int64_t d_k_;
    const int64_t d_v_;
    const kernels::CodeShape shape_;
    kv::Budget* const budget_;
    std::vector<float> signs_;
    std::vector<std::unique_ptr<std::byte[], Free>> chunks_;
    std::vector<Page> pages_;
    std::map<int64_t, std::vector<Part>> parts_;  // by page; few pages have any
    uint64_t call_ = 0;
    uint64_t bytes_ = 0;
    uint64_t reserved_ = 0;  // of the budget
};

}  // namespace atlas::attention
