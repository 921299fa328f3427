#include "memory/feature_cache.h"

#include <algorithm>
#include <bit>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "kernels/elementwise.h"

namespace atlas::memory {
namespace {
constexpr size_t kWays = 4;
}

FeatureCache::FeatureCache(const FeatureMap& map, size_t bytes) : map_(map) {
    const size_t row = (map.config().d + map.features()) * sizeof(float) + sizeof(uint64_t);
    const size_t sets = bytes / (row * kWays);
    sets_ = sets == 0 ? 0 : std::bit_floor(sets);
    used_.assign(sets_ * kWays, 0);
    inputs_.resize(sets_ * kWays * map.config().d);
    outputs_.resize(sets_ * kWays * map.features());
}

void FeatureCache::clear() {
    std::fill(used_.begin(), used_.end(), 0);
    stats_ = {};
}

void FeatureCache::map(const float* x, size_t n, float* out) {
    const size_t d = map_.config().d;
    const size_t features = map_.features();
    if (sets_ == 0) {
        stats_.misses += n;
        map_.map(x, n, out);
        return;
    }
    for (size_t row = 0; row < n; ++row, x += d, out += features) {
        if (!kernels::all_finite(x, d)) {
            ++stats_.misses;
            map_.map(x, 1, out);
            continue;
        }
        const size_t first = (XXH3_64bits(x, d * sizeof(float)) & (sets_ - 1)) * kWays;
        size_t victim = first;
        bool found = false;
        for (size_t way = first; way < first + kWays && !found; ++way) {
            found = used_[way] != 0 && std::memcmp(inputs_.data() + way * d, x, d * sizeof(float)) == 0;
            if (found || used_[way] < used_[victim]) victim = way;
        }
        used_[victim] = ++clock_;
        float* kept = outputs_.data() + victim * features;
        if (found) {
            ++stats_.hits;
        } else {
            ++stats_.misses;
            std::copy_n(x, d, inputs_.data() + victim * d);
            map_.map(x, 1, kept);
        }
        std::copy_n(kept, features, out);
    }
}

}  // namespace atlas::memory
