#pragma once

#include <cstdint>
#include <vector>

#include "attention/plan/visibility.h"
#include "attention/select/scores.h"

namespace atlas::attention {

/** How many keys may be selected for one (tile, KV head). */
struct FarBudget {
    int64_t least = 0;  ///< keys, whatever they hold
    int64_t most = 0;   ///< keys; not below `least`
    double share =
        0.0;  ///< above `least`: of a token's attention, summed over the heads of the group, that a key has to hold
};

/** Selects which keys to read: those with the largest shares. One per thread; its buffers only grow. */
class KeySelector {
public:
    /** Appends the selected keys to `selected`, ascending: per page which cells. Pages whose codes say nothing are selected whole. Throws std::bad_alloc. */
    void select(TileScores& scores, const FarBudget& budget, std::vector<PageCells>* selected);

private:
    void find_bounds(const TileScores& scores);
    void look_at(TileScores& scores, float least);
    int64_t count_at_least(float share) const;
    float least_of(int64_t count, float below);

    /** Of a page whose keys' shares are known. */
    struct Known {
        int64_t page;
        size_t shares;  // where its 64 begin
    };
    std::vector<float> bounds_;  // per page: no key of it has a larger share
    std::vector<Known> known_;   // sorted by page at the end
    std::vector<float> shares_;
    std::vector<float> candidates_;
};

}  // namespace atlas::attention
