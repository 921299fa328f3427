#include "attention/stats.h"

#include <cmath>
#include <cstdio>

namespace atlas::attention {

void LayerStats::add(const LayerStats& other) {
    calls += other.calls;
    exact_calls += other.exact_calls;
    rows += other.rows;
    visible_keys += other.visible_keys;
    exact_keys += other.exact_keys;
    estimated_keys += other.estimated_keys;
    queries += other.queries;
    retained_mass += other.retained_mass;
    probes += other.probes;
    probe_ratio += other.probe_ratio;
    probe_log_squared += other.probe_log_squared;
    grown += other.grown;
    if (other.index_bytes > index_bytes) index_bytes = other.index_bytes;
}

Stats& Stats::instance() {
    static Stats stats;
    return stats;
}

void Stats::add(int layer, const LayerStats& part) {
    const std::lock_guard lock(mutex_);
    layers_[layer].add(part);
}

bool Stats::empty() const {
    const std::lock_guard lock(mutex_);
    return layers_.empty();
}

std::string Stats::json() const {
    const std::lock_guard lock(mutex_);
    std::string text = "{\"layers\": [";
    bool first = true;
    for (const auto& [layer, s] : layers_) {
        const auto mean = [](double sum, double n) { return n > 0 ? sum / n : 0.0; };
        char line[640];
        std::snprintf(
            line, sizeof line,
            "%s\n  {\"layer\": %d, \"calls\": %llu, \"exact_calls\": %llu, \"visible_keys\": %.1f, \"exact_keys\": "
            "%.1f, "
            "\"estimated_keys\": %.1f, \"retained_mass\": %.5f, \"probes\": %.0f, \"probe_mean_ratio\": %.4f, "
            "\"probe_log_rms\": %.4f, \"grown\": %llu, \"index_bytes\": %llu}",
            first ? "" : ",", layer, static_cast<unsigned long long>(s.calls),
            static_cast<unsigned long long>(s.exact_calls), mean(s.visible_keys, s.rows), mean(s.exact_keys, s.rows),
            mean(s.estimated_keys, s.rows), mean(s.retained_mass, s.queries), s.probes, mean(s.probe_ratio, s.probes),
            std::sqrt(mean(s.probe_log_squared, s.probes)), static_cast<unsigned long long>(s.grown),
            static_cast<unsigned long long>(s.index_bytes));
        text += line;
        first = false;
    }
    return text + "\n]}\n";
}

}  // namespace atlas::attention
