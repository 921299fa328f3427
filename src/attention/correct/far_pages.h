#pragma once

#include <cstdint>
#include <vector>

#include "attention/index/key_index.h"
#include "attention/plan/visibility.h"

namespace atlas::attention {

/**
 * The far pages that the memories of one sequence have learned about, each with the version that it had then. Tells which sequence a tile of
 * queries belongs to, and whether what was learned still holds.
 */
class FarPages {
public:
    enum class Change {
        kNone,
        kMoved,     ///< keys turned to other positions (context shift), or a good part of the pages is out of sight
        kReplaced,  ///< other values: another text
    };

    /** How the known pages look from a tile of queries. */
    struct Look {
        int64_t seen = 0;    ///< known pages of which some token sees something
        int64_t far = 0;     ///< known pages that are far ones here too
        int64_t keys = 0;    ///< seen pages whose K was written since
        int64_t values = 0;  ///< … whose V was

        bool operator==(const Look&) const = default;
    };

    int64_t known() const { return known_; }
    Look look(const TileView& view, const KeyIndex& index) const;
    /**
     * Share of the known pages that `view` sees plus share of its far pages that are known: 2 for the same sequence. 0 unless one share is
     * at least three quarters: a sequence that grew, or one that was cut.
     */
    double match(const Look& look, const TileView& view) const;
    /** What happened to the known pages. A quarter of them has to be concerned: single overwritten pages are left to forgetting. */
    Change change(const Look& look) const;
    /** Whether exactly the far pages of the view are known, as they are now. */
    bool exact(const Look& look, const TileView& view) const {
        return look == Look{known_, known_, 0, 0} && view.far_pages == known_;
    }

    /** Whether the page (of the index) is known as it is now. */
    bool knows(int64_t page, const KeyIndex& index) const {
        const int64_t at = page - first_;
        return at >= 0 && at < static_cast<int64_t>(versions_.size()) && has_[static_cast<size_t>(at)] &&
               versions_[static_cast<size_t>(at)] == index.version(page);
    }
    void add(int64_t page, const KeyIndex& index);
    /** Exactly the far pages of `view`. */
    void assign(const TileView& view, const KeyIndex& index);
    void clear();

private:
    int64_t first_ = 0;  // page of the index that entry 0 stands for
    int64_t known_ = 0;
    std::vector<PageVersion> versions_;
    std::vector<uint8_t> has_;
};

}  // namespace atlas::attention
