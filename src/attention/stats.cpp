#include "attention/stats.h"

#include <cmath>
#include <cstdio>

namespace atlas::attention {
namespace {

void append_memory(const MemoryStats& m, std::string* text) {
    const auto number = [&](const char* name, uint64_t value) {
        *text += std::string(", \"") + name + "\": " + std::to_string(value);
    };
    const auto real = [&](const char* name, double value) {
        char digits[48];
        std::snprintf(digits, sizeof digits, ", \"%s\": %.6g", name, value);
        *text += digits;
    };
    *text += ",\n   \"memory\": {\"memories\": " + std::to_string(m.memories);
    number("bytes", m.bytes);
    real("gate", m.gate);
    number("observations", m.observations);
    number("learned", m.learned);
    number("skipped_pairs", m.skipped_pairs);
    number("skipped_updates", m.skipped_updates);
    real("error_without", m.error_without);
    real("error_with", m.error_with);
    number("probe_keys", m.probe_keys);
    const auto microseconds = [](double seconds, uint64_t tokens) {
        return tokens > 0 ? 1e6 * seconds / static_cast<double>(tokens) : 0.0;
    };
    number("decode_tokens", m.decode_tokens);
    real("decode_microseconds", microseconds(m.decode_seconds, m.decode_tokens));
    number("prefill_tokens", m.prefill_tokens);
    real("prefill_microseconds", microseconds(m.prefill_seconds, m.prefill_tokens));
    number("resets", m.resets);
    number("doubts", m.doubts);
    number("muon_iterations", m.muon_iterations);
    real("window_fill", m.window_fill);
    const uint64_t lookups = m.cache_hits + m.cache_misses;
    real("cache_hit_ratio", lookups > 0 ? static_cast<double>(m.cache_hits) / static_cast<double>(lookups) : 0.0);
    *text += "}";
}

}  // namespace

void LayerStats::add(const LayerStats& other) {
    calls += other.calls;
    exact_calls += other.exact_calls;
    rows += other.rows;
    visible_keys += other.visible_keys;
    exact_keys += other.exact_keys;
    estimated_keys += other.estimated_keys;
    queries += other.queries;
    retained_mass += other.retained_mass;
    if (other.index_bytes > index_bytes) index_bytes = other.index_bytes;
}

void MemoryStats::add(const MemoryStats& other) {
    const auto mean = [&](double mine, double theirs) {
        const auto n = static_cast<double>(memories + other.memories);
        return n > 0.0 ? (mine * static_cast<double>(memories) + theirs * static_cast<double>(other.memories)) / n
                       : 0.0;
    };
    window_fill = mean(window_fill, other.window_fill);
    gate = mean(gate, other.gate);
    error_without = mean(error_without, other.error_without);
    error_with = mean(error_with, other.error_with);
    memories += other.memories;
    bytes += other.bytes;
    observations += other.observations;
    learned += other.learned;
    skipped_pairs += other.skipped_pairs;
    skipped_updates += other.skipped_updates;
    muon_steps += other.muon_steps;
    muon_iterations += other.muon_iterations;
    cache_hits += other.cache_hits;
    cache_misses += other.cache_misses;
    resets += other.resets;
    doubts += other.doubts;
    probe_keys += other.probe_keys;
    decode_tokens += other.decode_tokens;
    prefill_tokens += other.prefill_tokens;
    decode_seconds += other.decode_seconds;
    prefill_seconds += other.prefill_seconds;
}

void Stats::add(int layer, const LayerStats& part) {
    const std::lock_guard lock(mutex_);
    layers_[layer].add(part);
}

void Stats::add(int layer, const MemoryStats& part) {
    const std::lock_guard lock(mutex_);
    memories_[layer].add(part);
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
            "\"estimated_keys\": %.1f, \"retained_mass\": %.5f, \"index_bytes\": %llu",
            first ? "" : ",", layer, static_cast<unsigned long long>(s.calls),
            static_cast<unsigned long long>(s.exact_calls), mean(s.visible_keys, s.rows), mean(s.exact_keys, s.rows),
            mean(s.estimated_keys, s.rows), mean(s.retained_mass, s.queries),
            static_cast<unsigned long long>(s.index_bytes));
        text += line;
        if (const auto found = memories_.find(layer); found != memories_.end()) append_memory(found->second, &text);
        text += "}";
        first = false;
    }
    return text + "\n]}\n";
}

}  // namespace atlas::attention
