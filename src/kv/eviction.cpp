#include "kv/eviction.h"

#include <cmath>

namespace atlas::kv {
namespace {

class Lru final : public EvictionPolicy {
public:
    void note(uint64_t now, PageUse* use) const override { use->last = now; }
    // Of tables with clocks of their own, ages can be compared.
    double value(uint64_t now, const PageUse& use) const override { return -static_cast<double>(now - use.last); }
    bool by_age_alone() const override { return true; }
};

class Score final : public EvictionPolicy {
public:
    void note(uint64_t now, PageUse* use) const override {
        use->score = static_cast<float>(value(now, *use)) + 1.0f;
        use->last = now;
    }
    double value(uint64_t now, const PageUse& use) const override {
        return static_cast<double>(use.score) * std::exp2(-static_cast<double>(now - use.last) / kScoreHalfLife);
    }
    bool by_age_alone() const override { return false; }
};

}  // namespace

const EvictionPolicy& lru_policy() {
    static const Lru policy;
    return policy;
}

const EvictionPolicy& score_policy() {
    static const Score policy;
    return policy;
}

}  // namespace atlas::kv
