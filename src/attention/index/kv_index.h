#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "attention/index/value_slope.h"
#include "kernels/moments.h"
#include "kv/page_table.h"

namespace atlas::attention {

/** Blocks per super-block: the second level of the index. A panel holds the blocks of one super-block. */
inline constexpr auto kSuperBlocks = static_cast<int64_t>(kernels::kPanelBlocks);

/** Which two dimensions of a key turn together. */
enum class Pairing {
    kAdjacent,  ///< (2i, 2i+1)
    kHalves,    ///< (i, i + d/2)
};

/**
 * What the moments of one stream's blocks are relative to. Its own for each stream, so that what one sequence is estimated by does not depend
 * on what the others hold.
 */
struct Calibration {
    std::vector<float>
        offset;  ///< [head][d_k], to be added to every stored mean: takes constant outlier channels out of the 8-bit range
    std::vector<float> tilt;  ///< [head][d_k]: the moments are weighted by e^{tilt·k}, and describe e^{(q − tilt)·k}
    bool tilted = false;      ///< whether there were enough queries to choose the tilts
    std::vector<float> slope_factor;       ///< [head] how much of the slopes is used; 0 before the tilts are chosen
    std::vector<ValueSlope> slopes;        ///< [head] of keys and values inside blocks
    std::vector<ValueSlope> super_slopes;  ///< [head] of the blocks' means inside super-blocks
    std::vector<double> query_sum;         ///< [head][d_k] of scaled queries, while it is not
    std::vector<float> samples;            ///< [head][sample][d_k]: some of them
    int64_t queries = 0;                   ///< tokens in that sum
};

/** A factor above 0 with 8 bits of precision. Rounded up, so that what it scales still fits; the range is that of float. */
class CoarseScale {
public:
    CoarseScale() = default;
    explicit CoarseScale(float x) : bits_(static_cast<uint16_t>((std::bit_cast<uint32_t>(x) + 0xFFFFu) >> 16)) {}
    // NOLINTNEXTLINE(google-explicit-constructor): it is a float that takes less room.
    operator float() const { return std::bit_cast<float>(uint32_t{bits_} << 16); }

private:
    uint16_t bits_ = 0;
};

/**
 * Moments of 16 blocks of one KV head, in the first level those of one super-block: a block is a group of alike keys out of the cells of its group of
 * pages (FarGroup), not a stretch of cells, and `member` says which. Factors are 8 bit with one scale per block: mean[b] = scale·i8 + the
 * head's offset. Keys are weighted by e^{t·k}, t the head's tilt. Per pair p of dimensions, spread is the root mean square and reach the largest distance of a
 * key from the *stored* mean, so that peak + (q − t)·mean + Σ_p |q − t|_p·reach_p bounds every q·k of the block whatever the rounding of the
 * mean (reach itself is rounded up).
 */
struct Panel {
    /** Room for `member` of `pages` pages, which super-panels do without. */
    Panel(int64_t d_k, int64_t d_v, int64_t pages);

    size_t bytes() const { return data_bytes + sizeof *this; }
    int8_t* mean() const { return reinterpret_cast<int8_t*>(data.get()); }                 ///< [d_k][16]
    uint8_t* spread() const { return reinterpret_cast<uint8_t*>(data.get()) + 16 * d_k; }  ///< [d_k / 2][16]
    uint8_t* reach() const { return reinterpret_cast<uint8_t*>(data.get()) + 24 * d_k; }   ///< [d_k / 2][16]
    int8_t* value() const { return reinterpret_cast<int8_t*>(data.get()) + 32 * d_k; }     ///< [16][d_v]
    /** [page of the panel][32]: lane of cell i of the page in the low half of byte i, of cell i + 32 in the high half. */
    uint8_t* member() const { return reinterpret_cast<uint8_t*>(data.get()) + 32 * d_k + 16 * d_v; }

    std::unique_ptr<std::byte[]> data;
    int32_t d_k, d_v, data_bytes;
    float log_mass[kernels::kPanelBlocks] = {};  ///< ln Σ_j e^{t·k_j}, t the head's tilt
    float peak[kernels::kPanelBlocks] = {};      ///< largest t·k_j
    CoarseScale mean_scale[kernels::kPanelBlocks];
    CoarseScale spread_scale[kernels::kPanelBlocks];
    CoarseScale reach_scale[kernels::kPanelBlocks];
    CoarseScale value_scale[kernels::kPanelBlocks];
};

/**
 * Block moments of one K/V cache pair: blocks of block_keys rows of the cache tensors (all streams together), alike ones out
 * of a group of pages, and super-blocks of kSuperBlocks blocks. Filled group by group when the planner needs one of which a page changed since
 * (page_version), so the write paths need not know of it. Distinct (group, head) pairs may be updated at the same time; reading needs updates to have ended.
 */
class KvIndex {
public:
    KvIndex(const kv::PageTable& k, const kv::PageTable& v, int64_t n_head_kv, int64_t d_k, int64_t d_v,
            int block_keys);

    bool fits(int64_t n_head_kv, int64_t d_k, int64_t d_v) const {
        return n_head_kv == n_heads_ && d_k == d_k_ && d_v == d_v_;
    }
    int64_t pages() const { return static_cast<int64_t>(seen_.size()); }
    int block_keys() const { return block_keys_; }
    int64_t blocks_per_page() const { return kv::kPageRows / block_keys_; }
    int64_t pages_per_super() const { return kSuperBlocks / blocks_per_page(); }
    Pairing pairing() const { return pairing_; }
    /** Changes with every write to the page: both counters only grow. */
    uint64_t version(int64_t page) const { return k_.page_version(page) + v_.page_version(page); }
    /** When tokens were last written to the page. A context shift writes K alone, which makes no token more recent. */
    uint64_t epoch(int64_t page) const { return std::min(k_.page_epoch(page), v_.page_epoch(page)); }

    /** Changes with every write to a page of a chunk of kv::kChunkPages pages. */
    uint64_t chunk_version(int64_t chunk) const {
        return k_.chunk_version(chunk) + v_.chunk_version(chunk);
    }
    /** A number that no index over other tensors of this process has or had. */
    uint64_t id() const { return k_.id(); }

    bool page_fresh(int64_t page) const { return seen_[static_cast<size_t>(page)] == version(page); }
    /** Whether the blocks of these pages are made of them together, as they are now. */
    bool group_fresh(int64_t page, int64_t count) const {
        for (int64_t p = page; p < page + count; ++p) {
            if (grouped_[static_cast<size_t>(p)] != count || !page_fresh(p)) return false;
        }
        return true;
    }
    /** Whether all groups of a chunk of kv::kChunkPages pages were found fresh, the same groups, and nothing was written there since. */
    bool chunk_checked(int64_t chunk, uint64_t groups) const {
        const CheckedChunk& known = checked_[static_cast<size_t>(chunk)];
        return known.groups == groups && known.version == chunk_version(chunk);
    }
    void set_chunk_checked(int64_t chunk, uint64_t groups) {
        checked_[static_cast<size_t>(chunk)] = {groups, chunk_version(chunk)};
    }
    bool super_fresh(int64_t super) const { return super_valid_[static_cast<size_t>(super)] != 0; }

    /** Of the stream whose key 0 lies in page `base_page`; empty before calibrate(). */
    Calibration& calibration(int64_t base_page) { return calibrations_[base_page]; }
    const Calibration& calibration(int64_t base_page) const { return calibrations_.at(base_page); }

    /**
     * Before the first update: keys of all heads, f32 [n_head][n][d_k], n a multiple of 64, in order. Fills offsets (each head's mean key) and
     * zero tilts; the first time, chooses the pairing whose two dimensions vary alike within blocks (a rotary pair that turns has equal variances).
     */
    void calibrate(const float* keys, int64_t n, Calibration* out);
    /** Makes these pages stale, as after a new calibration. */
    void forget(int64_t first_page, int64_t n_pages);

    /** Makes the panel of a group exist, and groups that held some of its pages otherwise stale. Not thread-safe. Throws std::bad_alloc. */
    void reserve(int64_t page, int64_t count);
    /**
     * Blocks of `count` pages of one head from their decoded rows, k [64·count][d_k], v [64·count][d_v], rows in the order of cells. Each block gets
     * block_keys alike keys if `alike`, else consecutive ones. Throws std::bad_alloc.
     */
    void update(int64_t page, int64_t count, int64_t head, const float* k, const float* v,
                const Calibration& calibration, bool alike);
    /** To be called after `update` of all heads of the group. */
    void mark_fresh(int64_t page, int64_t count);
    /** Rows of an updated group in the order of its blocks, each block's ascending. Throws std::bad_alloc. */
    void order_of(int64_t page, int64_t count, int64_t head, std::vector<int32_t>* order) const;
    /** Moments of a super-block of one head from its blocks, whose pages must be fresh. */
    void update_super(int64_t super, int64_t head);
    /** Adds the super-block's means to the head's slope, after update_super. Throws std::bad_alloc. */
    void add_super_slope(int64_t super, int64_t head, ValueSlope* slope) const;
    void mark_super_fresh(int64_t super) { super_valid_[static_cast<size_t>(super)] = 1; }

    const Panel* panel(int64_t head, int64_t index) const {
        return panels_[static_cast<size_t>(head * n_panels_ + index)].get();
    }
    const Panel* super_panel(int64_t head, int64_t index) const {
        return super_panels_[static_cast<size_t>(head * n_super_panels_ + index)].get();
    }
    /** Of panels, and of the slopes, whose size does not depend on the context. */
    uint64_t bytes() const;

private:
    /** One block from its rows, keys [block_keys][d_k]. */
    void update_block(Panel& panel, size_t lane, int64_t head, const float* keys, const float* values,
                      const Calibration& calibration);
    void store(Panel& panel, size_t lane, const float* mean, const float* spread, const float* reach,
               const float* value);

    struct CheckedChunk {
        uint64_t groups = 0, version = 0;
    };
    const kv::PageTable& k_;
    const kv::PageTable& v_;
    const int64_t n_heads_;
    const int64_t d_k_;
    const int64_t d_v_;
    const int block_keys_;
    int64_t n_panels_ = 0;
    int64_t n_super_panels_ = 0;
    bool paired_ = false;
    Pairing pairing_ = Pairing::kAdjacent;
    std::map<int64_t, Calibration> calibrations_;       // by the stream's first page
    std::vector<std::unique_ptr<Panel>> panels_;        // [head][panel]
    std::vector<std::unique_ptr<Panel>> super_panels_;  // [head][panel]
    std::vector<uint64_t> seen_;                        // version at the last update, per page
    std::vector<uint8_t> grouped_;       // pages of the group that the page's blocks are made of, per page
    std::vector<CheckedChunk> checked_;  // per chunk of pages
    std::vector<uint8_t> super_valid_;
    uint64_t bytes_ = 0;
};

/** First and second dimension of pair `p` of `d`. */
inline int64_t first_of_pair(Pairing pairing, int64_t p) { return pairing == Pairing::kAdjacent ? 2 * p : p; }
inline int64_t second_of_pair(Pairing pairing, int64_t p, int64_t d) {
    return pairing == Pairing::kAdjacent ? 2 * p + 1 : p + d / 2;
}

}  // namespace atlas::attention
