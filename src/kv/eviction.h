#pragma once

#include <cstdint>
#include <memory>

namespace atlas::kv {

/** How a page was used so far. Times are those of its table, which advance with each of its pins: once or a few times per token. */
struct PageUse {
    uint64_t last = 0;   ///< time of the last use
    float score = 0.0f;  ///< of that time; the policy's
};

/** Which pages leave memory first. Stateless; thread-safe. */
class EvictionPolicy {
public:
    virtual ~EvictionPolicy() = default;
    /** A page is used at a time. */
    virtual void note(uint64_t now, PageUse* use) const = 0;
    /** What a page is worth at a time of its table: those worth least leave first. Does not grow while a page is not used. */
    virtual double value(uint64_t now, const PageUse& use) const = 0;
    /** Whether how often something was used does not count. */
    virtual bool by_age_alone() const = 0;
};

/** The least recently used page leaves first. */
const EvictionPolicy& lru_policy();
/**
 * The page that selection chose least often leaves first, where a choice counts half as much after each kScoreHalfLife further ones: a key that is needed
 * time and again outlives one that happened to be read just now.
 */
const EvictionPolicy& score_policy();
inline constexpr double kScoreHalfLife = 64;

}  // namespace atlas::kv
