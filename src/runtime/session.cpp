#include "runtime/session.h"

#include <fstream>

#include "attention/stats.h"
#include "base/log.h"
#include "runtime/calibration.h"
#include "runtime/registry.h"

namespace atlas::runtime {

Session::Session() : engine_(options().sparse, options().memory) { Registry::instance().add(this); }

Session::~Session() {
    Registry::instance().remove(this);
    const std::string& target = options().sparse.stats;
    attention::Stats& stats = attention::Stats::instance();
    if (target.empty() || stats.empty()) return;
    for (const auto& [layer, memory] : engine_.memory().layer_stats()) stats.add(layer, memory);
    if (target == "1") {
        log().info("attention: {}", stats.json());
        return;
    }
    std::ofstream file(target);
    file << stats.json();
    if (!file.flush()) log().error("statistics: cannot write '{}'", target);
}

void Session::begin_graph() {
    masks_.begin_graph();
    engine_.begin_graph();
    kv::PagedTensor::advance_epoch();
}

attention::KvIndex& Session::index_for(const CacheView& cache, const kernels::AttentionArgs& args) {
    auto& index = indexes_[{cache.k->id(), cache.v->id()}];
    if (!index || !index->fits(args.n_head_kv, args.d_k, args.d_v)) {
        index = std::make_unique<attention::KvIndex>(*cache.k, *cache.v, args.n_head_kv, args.d_k, args.d_v,
                                                     engine_.settings().block_keys);
    }
    return *index;
}

Status Session::attend(kernels::AttentionArgs args, int64_t n_keys, const CacheView* cache, int n_threads) {
    if (args.mask.data) masks_.attach(args.n_tokens, n_keys, n_threads, &args.mask);
    if (cache && side_car_fit_.see(cache->layer, args.n_head_kv, args.d_k, args.d_v))
        start_memories(side_car_fit_, options(), &engine_.memory());
    if (Calibration* calibration = cache ? active_calibration() : nullptr)
        calibration->see(cache->layer, args.n_head_kv, args.d_k, args.d_v);
    if (cache && engine_.wants_index(args, n_keys))
        return engine_.attend(args, n_keys, index_for(*cache, args), {cache->layer, cache->base_pages}, n_threads);
    return kernels::attention(args, n_threads);
}

}  // namespace atlas::runtime
