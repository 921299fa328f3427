#include "attention/index/kv_index.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "attention/index/alike.h"
#include "attention/index/tilt.h"
#include "kernels/block_moments.h"

namespace atlas::attention {
namespace {

constexpr auto kLanes = static_cast<int64_t>(kernels::kPanelBlocks);
constexpr uint64_t kNever = UINT64_MAX;
// Of a page of 64 cells, 4 bits each.
constexpr int64_t kMemberBytes = kv::kPageRows / 2;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/** Chooses the scale and rounds: to nearest, or up so that no stored factor is below its value. */
CoarseScale quantise(const float* values, int64_t n, uint8_t* out, int64_t stride, bool up) {
    float largest = 0.0f;
    for (int64_t i = 0; i < n; ++i) largest = std::max(largest, values[i]);
    // A scale a hair larger keeps value/scale ≤ 255 although both were rounded.
    const CoarseScale coarse(largest / 255.0f * (1.0f + 1e-6f));
    const float scale = coarse;
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    for (int64_t i = 0; i < n; ++i) {
        const float level = values[i] * inverse;
        // In integers: ceil and nearbyint are calls where SSE 4.1 cannot be taken for granted.
        auto rounded = up ? static_cast<int>(level) : static_cast<int>(std::lrint(level));
        if (up && static_cast<float>(rounded) < level) ++rounded;
        if (up && static_cast<float>(rounded) * scale < values[i]) ++rounded;
        out[i * stride] = static_cast<uint8_t>(std::clamp(rounded, 0, 255));
    }
    return coarse;
}

CoarseScale quantise_signed(const float* values, int64_t n, int8_t* out, int64_t stride) {
    float largest = 0.0f;
    for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(values[i]));
    const CoarseScale coarse(largest / 127.0f);
    const float scale = coarse;
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    for (int64_t i = 0; i < n; ++i)
        out[i * stride] = static_cast<int8_t>(std::clamp(static_cast<int>(std::lrint(values[i] * inverse)), -127, 127));
    return coarse;
}

/** Imbalance of the two dimensions' variances, summed over pairs: small where pairs turn. */
double imbalance(const std::vector<double>& variance, Pairing pairing, int64_t heads, int64_t d) {
    double difference = 0.0;
    double total = 0.0;
    for (int64_t head = 0; head < heads; ++head) {
        for (int64_t p = 0; p < d / 2; ++p) {
            const double a = variance[static_cast<size_t>(head * d + first_of_pair(pairing, p))];
            const double b = variance[static_cast<size_t>(head * d + second_of_pair(pairing, p, d))];
            // Relative, so that no single loud channel decides.
            difference += a + b > 0.0 ? std::fabs(a - b) / (a + b) : 0.0;
            total += 1.0;
        }
    }
    return difference / std::max(total, 1.0);
}

}  // namespace

Panel::Panel(int64_t d_k_, int64_t d_v_, int64_t pages)
    : d_k(static_cast<int32_t>(d_k_)),
      d_v(static_cast<int32_t>(d_v_)),
      data_bytes(static_cast<int32_t>((2 * d_k_ + d_v_) * kLanes + pages * kMemberBytes)) {
    data = std::make_unique<std::byte[]>(static_cast<size_t>(data_bytes));
}

KvIndex::KvIndex(const kv::PageTable& k, const kv::PageTable& v, int64_t n_head_kv, int64_t d_k, int64_t d_v,
                 int block_keys)
    : k_(k), v_(v), n_heads_(n_head_kv), d_k_(d_k), d_v_(d_v), block_keys_(block_keys) {
    const int64_t n_pages = divide_up(std::min(k.rows(), v.rows()), kv::kPageRows);
    n_panels_ = divide_up(n_pages * blocks_per_page(), kLanes);
    n_super_panels_ = divide_up(n_panels_, kLanes);
    seen_.assign(static_cast<size_t>(n_pages), kNever);
    grouped_.assign(static_cast<size_t>(n_pages), 0);
    checked_.resize(static_cast<size_t>(divide_up(n_pages, kv::kChunkPages)));
    super_valid_.assign(static_cast<size_t>(n_panels_), 0);
    panels_.resize(static_cast<size_t>(n_heads_ * n_panels_));
    super_panels_.resize(static_cast<size_t>(n_heads_ * n_super_panels_));
    bytes_ =
        seen_.size() * (sizeof(uint64_t) + sizeof(uint8_t)) + (panels_.size() + super_panels_.size()) * sizeof(void*);
}

void KvIndex::calibrate(const float* keys, int64_t n, Calibration* out) {
    std::vector<double> variance(static_cast<size_t>(n_heads_ * d_k_));
    out->tilt.assign(static_cast<size_t>(n_heads_ * d_k_), 0.0f);
    out->slope_factor.assign(static_cast<size_t>(n_heads_), 0.0f);
    out->slopes.assign(static_cast<size_t>(n_heads_), {});
    out->super_slopes.assign(static_cast<size_t>(n_heads_), {});
    // Last: that there are offsets tells that all of this is there, also after an allocation that failed.
    out->offset.resize(static_cast<size_t>(n_heads_ * d_k_));
    for (int64_t head = 0; head < n_heads_; ++head) {
        for (int64_t i = 0; i < d_k_; ++i) {
            const float* channel = keys + head * n * d_k_ + i;
            double total = 0.0;
            for (int64_t begin = 0; begin < n; begin += kv::kPageRows) {
                double sum = 0.0;
                double squares = 0.0;
                for (int64_t j = begin; j < begin + kv::kPageRows; ++j) {
                    const double x = channel[j * d_k_];
                    sum += x;
                    squares += x * x;
                }
                total += sum;
                variance[static_cast<size_t>(head * d_k_ + i)] +=
                    squares - sum * sum / static_cast<double>(kv::kPageRows);
            }
            out->offset[static_cast<size_t>(head * d_k_ + i)] = static_cast<float>(total / static_cast<double>(n));
        }
    }
    if (paired_) return;
    const double adjacent = imbalance(variance, Pairing::kAdjacent, n_heads_, d_k_);
    const double halves = imbalance(variance, Pairing::kHalves, n_heads_, d_k_);
    pairing_ = halves < adjacent ? Pairing::kHalves : Pairing::kAdjacent;
    paired_ = true;
}

void KvIndex::forget(int64_t first_page, int64_t n_pages) {
    const auto end = static_cast<size_t>(std::min(first_page + n_pages, pages()));
    for (auto page = static_cast<size_t>(first_page); page < end; ++page) {
        seen_[page] = kNever;
        super_valid_[static_cast<size_t>(static_cast<int64_t>(page) / pages_per_super())] = 0;
        checked_[page / kv::kChunkPages] = {};
    }
}

uint64_t KvIndex::bytes() const {
    uint64_t sum = bytes_;
    for (const auto& [base_page, calibration] : calibrations_) {
        for (const ValueSlope& slope : calibration.slopes) sum += slope.bytes();
        for (const ValueSlope& slope : calibration.super_slopes) sum += slope.bytes();
    }
    return sum;
}

void KvIndex::reserve(int64_t page, int64_t count) {
    const int64_t block = page * blocks_per_page();
    const auto make = [&](std::unique_ptr<Panel>& panel, int64_t pages) {
        if (panel) return;
        panel = std::make_unique<Panel>(d_k_, d_v_, pages);
        bytes_ += panel->bytes();
    };
    for (int64_t head = 0; head < n_heads_; ++head) {
        make(panels_[static_cast<size_t>(head * n_panels_ + block / kLanes)], pages_per_super());
        make(super_panels_[static_cast<size_t>(head * n_super_panels_ + block / kSuperBlocks / kLanes)], 0);
    }
    for (int64_t p = page; p < page + count; ++p) {
        const int64_t old = grouped_[static_cast<size_t>(p)];
        if (old <= count) continue;
        for (int64_t other = p - p % old; other < std::min(p - p % old + old, pages()); ++other) {
            seen_[static_cast<size_t>(other)] = kNever;
            grouped_[static_cast<size_t>(other)] = 0;
        }
    }
}

void KvIndex::store(Panel& panel, size_t lane, const float* mean, const float* spread, const float* reach,
                    const float* value) {
    if (mean) panel.mean_scale[lane] = quantise_signed(mean, d_k_, panel.mean() + lane, kLanes);
    if (spread) panel.spread_scale[lane] = quantise(spread, d_k_ / 2, panel.spread() + lane, kLanes, false);
    if (reach) panel.reach_scale[lane] = quantise(reach, d_k_ / 2, panel.reach() + lane, kLanes, true);
    if (value)
        panel.value_scale[lane] = quantise_signed(value, d_v_, panel.value() + static_cast<int64_t>(lane) * d_v_, 1);
}

void KvIndex::update(int64_t page, int64_t count, int64_t head, const float* k, const float* v,
                     const Calibration& calibration, bool alike) {
    const int64_t rows = count * kv::kPageRows;
    const int64_t block0 = page * blocks_per_page();
    Panel& panel = *panels_[static_cast<size_t>(head * n_panels_ + block0 / kLanes)];
    thread_local std::vector<int32_t> order;
    thread_local std::vector<float> ordered;
    if (alike) {
        ordered.resize(static_cast<size_t>(rows * (d_k_ + d_v_)));
        group_alike(k, rows, d_k_, block_keys_, &order);
        reorder_rows(k, order, d_k_, ordered.data());
        reorder_rows(v, order, d_v_, ordered.data() + rows * d_k_);
        k = ordered.data();
        v = ordered.data() + rows * d_k_;
    } else {
        order.resize(static_cast<size_t>(rows));
        std::iota(order.begin(), order.end(), 0);
    }
    uint8_t* member = panel.member() + page % pages_per_super() * kMemberBytes;
    std::fill_n(member, count * kMemberBytes, uint8_t{0});
    for (int64_t i = 0; i < rows; ++i) {
        const int64_t cell = order[static_cast<size_t>(i)];
        const int64_t lane = (block0 + i / block_keys_) % kLanes;
        uint8_t& byte = member[cell / kv::kPageRows * kMemberBytes + cell % kMemberBytes];
        byte = static_cast<uint8_t>(byte | lane << (cell % kv::kPageRows / kMemberBytes * 4));
    }
    for (int64_t block = 0; block < count * blocks_per_page(); ++block)
        update_block(panel, static_cast<size_t>((block0 + block) % kLanes), head, k + block * block_keys_ * d_k_,
                     v + block * block_keys_ * d_v_, calibration);
}

void KvIndex::update_block(Panel& panel, size_t lane, int64_t head, const float* keys, const float* values,
                           const Calibration& calibration) {
    const int64_t pairs = d_k_ / 2;
    const auto n = static_cast<size_t>(block_keys_);
    const float* offset = calibration.offset.data() + head * d_k_;
    const float* tilt = calibration.tilt.data() + head * d_k_;
    float weights[kv::kPageRows];
    thread_local std::vector<float> mean, value, spread, reach;
    mean.assign(static_cast<size_t>(d_k_), 0.0f);
    value.assign(static_cast<size_t>(d_v_), 0.0f);
    spread.resize(static_cast<size_t>(pairs));
    reach.resize(static_cast<size_t>(pairs));
    tilted_weights(keys, block_keys_, d_k_, tilt, weights, &panel.log_mass[lane], &panel.peak[lane]);
    kernels::weighted_sum(keys, n, static_cast<size_t>(d_k_), weights, offset, mean.data());
    kernels::weighted_sum(values, n, static_cast<size_t>(d_v_), weights, nullptr, value.data());
    store(panel, lane, mean.data(), nullptr, nullptr, value.data());
    // Spread and reach are measured from the mean as stored.
    for (int64_t i = 0; i < d_k_; ++i) {
        mean[static_cast<size_t>(i)] =
            panel.mean_scale[lane] * static_cast<float>(panel.mean()[i * kLanes + static_cast<int64_t>(lane)]) +
            offset[i];
    }
    kernels::pair_distances(keys, n, static_cast<size_t>(d_k_), pairing_ == Pairing::kAdjacent, weights, mean.data(),
                            spread.data(), reach.data());
    store(panel, lane, nullptr, spread.data(), reach.data(), nullptr);
}

void KvIndex::mark_fresh(int64_t page, int64_t count) {
    for (int64_t p = page; p < page + count; ++p) {
        seen_[static_cast<size_t>(p)] = version(p);
        grouped_[static_cast<size_t>(p)] = static_cast<uint8_t>(count);
    }
    super_valid_[static_cast<size_t>(page * blocks_per_page() / kSuperBlocks)] = 0;
}

void KvIndex::order_of(int64_t page, int64_t count, int64_t head, std::vector<int32_t>* order) const {
    const int64_t block0 = page * blocks_per_page();
    const uint8_t* member = panel(head, block0 / kLanes)->member() + page % pages_per_super() * kMemberBytes;
    int32_t next[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane)
        next[lane] = static_cast<int32_t>((lane - block0 % kLanes) * block_keys_);
    order->resize(static_cast<size_t>(count * kv::kPageRows));
    for (int64_t cell = 0; cell < count * kv::kPageRows; ++cell) {
        const uint8_t byte = member[cell / kv::kPageRows * kMemberBytes + cell % kMemberBytes];
        const int lane = byte >> (cell % kv::kPageRows / kMemberBytes * 4) & 15;
        (*order)[static_cast<size_t>(next[lane]++)] = static_cast<int32_t>(cell);
    }
}

void KvIndex::update_super(int64_t super, int64_t head) {
    const int64_t pairs = d_k_ / 2;
    const Panel& from = *panels_[static_cast<size_t>(head * n_panels_ + super)];
    Panel& to = *super_panels_[static_cast<size_t>(head * n_super_panels_ + super / kLanes)];
    const auto lane = static_cast<size_t>(super % kLanes);
    thread_local std::vector<float> mean, value, spread, reach;
    mean.assign(static_cast<size_t>(d_k_), 0.0f);
    value.assign(static_cast<size_t>(d_v_), 0.0f);
    spread.resize(static_cast<size_t>(pairs));
    reach.resize(static_cast<size_t>(pairs));
    const auto mean_of = [&](int64_t i, int64_t b) {
        return from.mean_scale[b] * static_cast<float>(from.mean()[i * kLanes + b]);
    };
    // Each block counts by its share of the tilted mass.
    float share[kSuperBlocks];
    const float top = *std::max_element(from.log_mass, from.log_mass + kSuperBlocks);
    float total = 0.0f;
    for (int64_t b = 0; b < kSuperBlocks; ++b) total += share[b] = std::exp(from.log_mass[b] - top);
    for (float& x : share) x /= total;
    to.log_mass[lane] = top + std::log(total);
    to.peak[lane] = *std::max_element(from.peak, from.peak + kSuperBlocks);
    for (int64_t b = 0; b < kSuperBlocks; ++b) {
        for (int64_t i = 0; i < d_k_; ++i) mean[static_cast<size_t>(i)] += share[b] * mean_of(i, b);
        for (int64_t i = 0; i < d_v_; ++i)
            value[static_cast<size_t>(i)] +=
                share[b] * from.value_scale[b] * static_cast<float>(from.value()[b * d_v_ + i]);
    }
    store(to, lane, mean.data(), nullptr, nullptr, value.data());
    for (int64_t i = 0; i < d_k_; ++i) {
        mean[static_cast<size_t>(i)] =
            to.mean_scale[lane] * static_cast<float>(to.mean()[i * kLanes + static_cast<int64_t>(lane)]);
    }
    for (int64_t p = 0; p < pairs; ++p) {
        const int64_t i0 = first_of_pair(pairing_, p);
        const int64_t i1 = second_of_pair(pairing_, p, d_k_);
        float sum = 0.0f;
        float largest = 0.0f;
        for (int64_t b = 0; b < kSuperBlocks; ++b) {
            const float x = mean_of(i0, b) - mean[static_cast<size_t>(i0)];
            const float y = mean_of(i1, b) - mean[static_cast<size_t>(i1)];
            const float inner = from.spread_scale[b] * static_cast<float>(from.spread()[p * kLanes + b]);
            sum += share[b] * (x * x + y * y + inner * inner);
            largest = std::max(largest, std::sqrt(x * x + y * y) +
                                            from.reach_scale[b] * static_cast<float>(from.reach()[p * kLanes + b]));
        }
        spread[static_cast<size_t>(p)] = std::sqrt(sum);
        // Float rounding of the sums must not lower the bound.
        reach[static_cast<size_t>(p)] = largest * (1.0f + 1e-6f);
    }
    store(to, lane, nullptr, spread.data(), reach.data(), nullptr);
}

void KvIndex::add_super_slope(int64_t super, int64_t head, ValueSlope* slope) const {
    const Panel& from = *panel(head, super);
    thread_local std::vector<float> keys, values, mean;
    keys.resize(static_cast<size_t>(kSuperBlocks * d_k_));
    values.resize(static_cast<size_t>(kSuperBlocks * d_v_));
    mean.resize(static_cast<size_t>(d_k_));
    float share[kSuperBlocks];
    std::copy(from.log_mass, from.log_mass + kSuperBlocks, share);
    const float top = kernels::max_of(share, kSuperBlocks);
    const float total = kernels::exp_sum(share, kSuperBlocks, top);
    for (int64_t b = 0; b < kSuperBlocks; ++b) {
        share[b] /= total;
        for (int64_t i = 0; i < d_k_; ++i)
            keys[static_cast<size_t>(b * d_k_ + i)] =
                from.mean_scale[b] * static_cast<float>(from.mean()[i * kLanes + b]);
        for (int64_t i = 0; i < d_v_; ++i)
            values[static_cast<size_t>(b * d_v_ + i)] =
                from.value_scale[b] * static_cast<float>(from.value()[b * d_v_ + i]);
    }
    kernels::weighted_sum(keys.data(), static_cast<size_t>(kSuperBlocks), static_cast<size_t>(d_k_), share, nullptr,
                          mean.data());
    slope->add(keys.data(), values.data(), share, mean.data(), top + std::log(total), kSuperBlocks, d_k_, d_v_);
}

}  // namespace atlas::attention
