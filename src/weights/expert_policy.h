#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

namespace atlas::weights {

/**
 * Which experts leave memory first. Each choice of an expert counts, and counts for less with each token after it; how much less is best depends on the
 * model and on the text. So several rates are kept, from "only the last choice counts" (LRU) to "all count alike" (LFU), and beside them a fixed subset:
 * where all experts come in turn, or a token's are more than memory holds, whatever goes by use finds nothing again. Each has a shadow cache, which holds
 * numbers of experts and nothing else; the one whose shadow finds most of what is asked for is followed. Not thread-safe.
 */
class ExpertPolicy {
public:
    struct Rate {
        const char* name;
        double
            half_life;  ///< in tokens, after which a choice counts for half; 0: LRU, infinite: LFU, negative: what came first stays
    };
    static constexpr size_t kRates = 7;
    static const std::array<Rate, kRates>& rates();

    /** `experts` of all layers together, numbered from 0; memory has room for about `room` of them. What was counted stays. Throws std::bad_alloc. */
    void resize(size_t experts, size_t room);
    size_t room() const { return room_; }

    /** So many tokens begin. */
    void advance(int64_t tokens) { now_ += static_cast<double>(tokens); }
    /** An expert was chosen `times` times, at least once, by these tokens. Throws std::bad_alloc. */
    void choose(size_t expert, double times);

    /** The smallest leaves first. Of an expert that is not chosen it changes only where followed() does. */
    double rank(size_t expert) const { return ranks_[followed_][expert]; }
    /** Number of the rate that is followed. */
    size_t followed() const { return followed_; }
    /** Of choices, those that the shadow cache of a rate would have found; of experts per graph, not of tokens. */
    uint64_t shadow_hits(size_t rate) const { return shadows_[rate].hits; }
    uint64_t choices() const { return choices_; }
    /**
     * What would have been found by who knows all choices beforehand (Belady), with the room that there is now: no cache finds more. 0 where there
     * were more choices than are kept. Slow.
     */
    uint64_t most_hits() const;

private:
    struct Shadow {
        std::set<std::pair<double, size_t>> there;  // by rank
        std::vector<bool> has;
        uint64_t hits = 0;
        double lately = 0;  // hits, of which earlier ones count less
    };

    void follow_best();

    std::array<std::vector<double>, kRates> ranks_;  // logarithms, but for LRU
    std::array<Shadow, kRates> shadows_;
    size_t room_ = 0;
    size_t followed_ = kFirst;
    double now_ = 0;
    double sequence_ = 0;
    uint64_t choices_ = 0;
    std::vector<uint32_t> trace_;  // the first choices

    // Until enough was seen.
    static constexpr size_t kFirst = 3;
};

}  // namespace atlas::weights
