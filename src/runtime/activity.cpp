#include "runtime/activity.h"

#include <algorithm>
#include <cmath>

namespace atlas::runtime {

void Measured::add(double own_seconds, double host_seconds, double copy_seconds, bool host_was_first) {
    ++samples;
    own += own_seconds;
    host += host_seconds;
    copies += copy_seconds;
    // What is long counts more, as it does in a graph. By the shorter time: only one of the two was held up.
    (host_was_first ? host_first : own_first).add(host_seconds / own_seconds, std::min(own_seconds, host_seconds));
}

void Measured::add(const Measured& other) {
    if (other.samples == 0) return;
    samples += other.samples;
    own += other.own;
    host += other.host;
    copies += other.copies;
    host_first.add(other.host_first);
    own_first.add(other.own_first);
}

double Measured::gain() const {
    const double first = host_first.median();
    const double second = own_first.median();
    if (first > 0.0 && second > 0.0) return std::sqrt(first * second);
    const double one = std::max(first, second);
    return one > 0.0 ? one : 1.0;
}

void Work::add(const Work& other) {
    graphs += other.graphs;
    own_nodes += other.own_nodes;
    host_nodes += other.host_nodes;
    attention_calls += other.attention_calls;
    estimated_calls += other.estimated_calls;
    attention_by_host += other.attention_by_host;
    products += other.products;
    sparse_products += other.sparse_products;
    sparse_bytes += other.sparse_bytes;
    sparse_bytes_read += other.sparse_bytes_read;
    rounded_products += other.rounded_products;
    streamed_products += other.streamed_products;
    products_by_host += other.products_by_host;
    rows += other.rows;
    visible_keys += other.visible_keys;
    exact_keys += other.exact_keys;
    compute_seconds += other.compute_seconds;
    sampling_seconds += other.sampling_seconds;
    attention_seconds += other.attention_seconds;
    memory_seconds += other.memory_seconds;
    for (size_t i = 0; i < kModules; ++i) measured[i].add(other.measured[i]);
}

uint64_t Work::calls_of(Module module) const {
    switch (module) {
        case Module::kExactAttention:
            return attention_calls - estimated_calls;
        case Module::kSparseAttention:
            return estimated_calls;
        case Module::kWeights:
            return products - sparse_products;
        case Module::kActivationSparsity:
            return sparse_products;
        case Module::kHybridWeights:
            return rounded_products;
        case Module::kStreaming:
            return streamed_products;
        default:
            return 0;
    }
}

double Work::speedup() const {
    double own = 0.0;
    double host = 0.0;
    for (size_t i = 0; i < kModules; ++i) {
        if (measured[i].samples == 0) continue;
        // What the samples stand for.
        const double each =
            static_cast<double>(calls_of(static_cast<Module>(i))) / static_cast<double>(measured[i].samples);
        own += measured[i].own * each;
        host += measured[i].own * each * measured[i].gain();
    }
    return own > 0.0 ? host / own : 1.0;
}

uint64_t Work::samples() const {
    uint64_t sum = 0;
    for (const Measured& one : measured) sum += one.samples;
    return sum;
}

void Held::add(const Held& other, int64_t times) {
    contexts += times * other.contexts;
    index_bytes += times * other.index_bytes;
    memory_bytes += times * other.memory_bytes;
    scratch_bytes += times * other.scratch_bytes;
    column_bytes += times * other.column_bytes;
    memories += times * other.memories;
}

void Activity::add(const Work& work) {
    const std::lock_guard lock(mutex_);
    work_.add(work);
}

void Activity::hold(const Held& before, const Held& now) {
    const std::lock_guard lock(mutex_);
    held_.add(before, -1);
    held_.add(now, 1);
}

Work Activity::work() const {
    const std::lock_guard lock(mutex_);
    return work_;
}

Held Activity::held() const {
    const std::lock_guard lock(mutex_);
    return held_;
}

void Activity::reset() {
    const std::lock_guard lock(mutex_);
    work_ = {};
}

}  // namespace atlas::runtime
