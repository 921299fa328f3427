#include "attention/far_field.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "attention/probe.h"

namespace atlas::attention {
namespace {

constexpr auto kLanes = static_cast<int64_t>(kernels::kPanelBlocks);
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

enum Lane : uint8_t { kUnused, kCandidate, kSelected };

/** A panel in play: its level, and the block (or super-block) of the index that lane 0 holds. */
struct Part {
    const Panel* panel;
    int64_t first;
    bool super;
};

class FarField {
public:
    FarField(const kernels::AttentionArgs& args, const KvIndex& index, const Settings& settings, const TileView& view,
             int64_t kv_head, FarWorkspace* work)
        : args_(args),
          index_(index),
          settings_(settings),
          view_(view),
          head_(kv_head),
          group_(args.n_head / args.n_head_kv),
          rows_(view.tokens * group_),
          pairs_(args.d_k / 2),
          w_(*work) {
        const auto round = [](int64_t n) { return (n + 15) / 16 * 16; };
        w_.memory.resize(static_cast<size_t>(round(rows_ * args.d_k) + round(rows_ * pairs_) + round(rows_) * 2 +
                                             args.d_k * kLanes + rows_ * kLanes + 64 + 16));
        float* at = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(w_.memory.data()) + 63) / 64 * 64);
        const auto take = [&](int64_t n) {
            float* part = at;
            at += round(n);
            return part;
        };
        q_ = take(rows_ * args.d_k);
        q_abs_ = take(rows_ * pairs_);
        base_ = take(rows_);
        total_ = take(rows_);
        panel_ = take(args.d_k * kLanes);
        product_ = take(rows_ * kLanes);
        load_queries();
    }

    void find_parts() {
        const int64_t bpp = index_.blocks_per_page();
        const auto pages = static_cast<int64_t>(view_.use.size());
        const int64_t begin = view_.base_page * bpp;
        const int64_t end = begin + pages * bpp;
        std::vector<uint8_t> in_super(static_cast<size_t>(end - begin), 0);
        if (view_.far_pages * bpp > int64_t{settings_.beam}) expand_best_supers(begin, end, &in_super);
        const size_t first_part = parts_.size();
        for (int64_t panel = begin / kLanes; panel * kLanes < end; ++panel) {
            uint8_t state[kLanes] = {};
            bool any = false;
            for (int64_t b = std::max(begin, panel * kLanes); b < std::min(end, (panel + 1) * kLanes); ++b) {
                const PageUse use = view_.use[static_cast<size_t>((b - begin) / bpp)];
                if ((use != PageUse::kFar && use != PageUse::kFarSome) || in_super[static_cast<size_t>(b - begin)])
                    continue;
                state[b % kLanes] = kCandidate;
                any = true;
            }
            if (any) add_part({index_.panel(head_, panel), panel * kLanes, false}, state);
        }
        score(first_part);
        sum_columns(0);
    }

    /** Marks lanes as selected until `budget` keys are. */
    void select(int64_t budget) {
        const auto wanted = static_cast<size_t>((budget + index_.block_keys() - 1) / index_.block_keys());
        const auto floor = static_cast<size_t>(settings_.floor / index_.block_keys());
        w_.order.clear();
        for (size_t i = 0; i < w_.state.size(); ++i) {
            if (w_.state[i] != kUnused && !parts_[i / kernels::kPanelBlocks].super) {
                w_.state[i] = kCandidate;
                w_.order.push_back(static_cast<int64_t>(i));
            }
        }
        const size_t n = std::min(wanted, w_.order.size());
        const auto by_reach = static_cast<size_t>(static_cast<double>(n) * settings_.reach_share);
        const auto take = [&](const std::vector<float>& rank, size_t begin, size_t count, bool may_stop) {
            const auto better = [&](int64_t a, int64_t b) {
                const float x = rank[static_cast<size_t>(a)];
                const float y = rank[static_cast<size_t>(b)];
                return x != y ? x > y : a < b;
            };
            const auto from = w_.order.begin() + static_cast<std::ptrdiff_t>(begin);
            if (begin + count < w_.order.size())
                std::nth_element(from, from + static_cast<std::ptrdiff_t>(count), w_.order.end(), better);
            if (may_stop) std::sort(from, from + static_cast<std::ptrdiff_t>(count), better);
            double mass = 0.0;
            for (size_t i = begin; i < begin + count; ++i) {
                if (may_stop && i >= floor && mass >= (1.0 - settings_.epsilon) * static_cast<double>(rows_)) return i;
                w_.state[static_cast<size_t>(w_.order[i])] = kSelected;
                mass += rank[static_cast<size_t>(w_.order[i])];
            }
            return begin + count;
        };
        size_t done = take(w_.column_mass, 0, n - by_reach, settings_.epsilon > 0.0);
        if (by_reach > 0 && done == n - by_reach) take(w_.column_reach, done, by_reach, false);
    }

    /** Log mass and mean value per row over what is not selected. */
    void estimate(float* far_lse, float* far_out) {
        const auto d_v = static_cast<size_t>(args_.d_v);
        std::fill(far_out, far_out + rows_ * args_.d_v, 0.0f);
        if (settings_.estimate == FarEstimate::kDrop) {
            std::fill(far_lse, far_lse + rows_, kMinusInfinity);
            return;
        }
        std::vector<float> max(static_cast<size_t>(rows_), kMinusInfinity);
        std::vector<float> sum(static_cast<size_t>(rows_), 0.0f);
        for (size_t part = 0; part < parts_.size(); ++part) {
            for (int64_t row = 0; row < rows_; ++row) {
                const float* mass = mass_of(part, row);
                const uint8_t* state = w_.state.data() + part * kernels::kPanelBlocks;
                float best = max[static_cast<size_t>(row)];
                for (int64_t b = 0; b < kLanes; ++b) best = state[b] == kCandidate ? std::max(best, mass[b]) : best;
                max[static_cast<size_t>(row)] = best;
            }
        }
        for (size_t part = 0; part < parts_.size(); ++part) {
            const uint8_t* state = w_.state.data() + part * kernels::kPanelBlocks;
            const Panel& panel = *parts_[part].panel;
            for (int64_t row = 0; row < rows_; ++row) {
                float* weight = product_ + row * kLanes;
                const float* mass = mass_of(part, row);
                for (int64_t b = 0; b < kLanes; ++b) weight[b] = state[b] == kCandidate ? mass[b] : kMinusInfinity;
                const float shift = max[static_cast<size_t>(row)];
                if (shift == kMinusInfinity) {
                    std::fill(weight, weight + kLanes, 0.0f);
                    continue;
                }
                sum[static_cast<size_t>(row)] += kernels::exp_sum(weight, kernels::kPanelBlocks, shift);
                for (int64_t b = 0; b < kLanes; ++b) weight[b] *= panel.value_scale[b];
            }
            kernels::panel_value(product_, static_cast<size_t>(rows_), panel.value, kernels::kPanelBlocks, d_v,
                                 far_out);
        }
        for (int64_t row = 0; row < rows_; ++row) {
            const float s = sum[static_cast<size_t>(row)];
            far_lse[row] = s > 0.0f ? max[static_cast<size_t>(row)] + std::log(s) : kMinusInfinity;
            const float inverse = s > 0.0f ? 1.0f / s : 0.0f;
            for (int64_t i = 0; i < args_.d_v; ++i) far_out[row * args_.d_v + i] *= inverse;
        }
    }

    /** Reads a few far blocks drawn by their estimated mass; adds true ÷ estimated mass to the result. */
    double probe(const float* far_lse, FarResult* result) const {
        double ratios = 0.0;
        double n = 0.0;
        const kernels::HeadRuns& list = args_.runs[view_.stream * args_.n_head_kv + head_];
        ProbeRandom random(static_cast<uint64_t>(settings_.seed), q_, args_.d_k);
        for (int i = 0; i < settings_.probes; ++i) {
            const int64_t row = std::min(rows_ - 1, static_cast<int64_t>(random.next() * static_cast<double>(rows_)));
            if (far_lse[row] == kMinusInfinity) continue;
            // Inverse of the distribution function, walked over the lanes.
            double left = random.next();
            int64_t lane = -1;
            for (size_t part = 0; part < parts_.size() && left > 0.0; ++part) {
                if (parts_[part].super) continue;
                const float* mass = mass_of(part, row);
                for (int64_t b = 0; b < kLanes && left > 0.0; ++b) {
                    if (w_.state[part * kernels::kPanelBlocks + static_cast<size_t>(b)] != kCandidate) continue;
                    const double p = std::exp(static_cast<double>(mass[b] - far_lse[row]));
                    if (p == 0.0) continue;
                    left -= p;
                    lane = static_cast<int64_t>(part) * kLanes + b;
                }
            }
            // Mass inside super-blocks is not probed: the ratio is then that of the blocks alone.
            if (lane < 0 || (left > 0.0 && has_supers_)) continue;
            const int64_t block = parts_[static_cast<size_t>(lane / kLanes)].first + lane % kLanes;
            const int64_t key = block * index_.block_keys() - view_.base_page * kv::kPageRows;
            const double truth = block_log_mass(args_, list, key, index_.block_keys(), q_ + row * args_.d_k);
            const double error =
                truth - static_cast<double>(mass_of(static_cast<size_t>(lane / kLanes), row)[lane % kLanes]);
            const double ratio = std::exp(error);
            ratios += ratio;
            n += 1.0;
            result->probe_ratio += ratio;
            result->probe_log_squared += error * error;
            result->probes += 1.0;
        }
        return n > 0.0 ? ratios / n : 1.0;
    }

    void collect(FarResult* result) const {
        result->selected.clear();
        result->far_keys = 0;
        for (size_t i = 0; i < w_.state.size(); ++i) {
            if (w_.state[i] == kUnused) continue;
            const Part& part = parts_[i / kernels::kPanelBlocks];
            const int64_t block = part.first + static_cast<int64_t>(i % kernels::kPanelBlocks);
            if (w_.state[i] == kSelected) {
                result->selected.push_back(
                    {block * index_.block_keys() - view_.base_page * kv::kPageRows, index_.block_keys()});
            } else {
                result->far_keys += static_cast<double>(index_.block_keys() * (part.super ? kSuperBlocks : 1));
            }
        }
        std::sort(result->selected.begin(), result->selected.end(),
                  [](const KeyRange& a, const KeyRange& b) { return a.key < b.key; });
    }

private:
    float* mass_of(size_t part, int64_t row) const {
        return w_.mass.data() + (static_cast<int64_t>(part) * rows_ + row) * kLanes;
    }
    float* reach_of(size_t part, int64_t row) const {
        return w_.reach.data() + (static_cast<int64_t>(part) * rows_ + row) * kLanes;
    }

    void load_queries() {
        const Pairing pairing = index_.pairing();
        const float* offset = index_.offset(head_);
        for (int64_t row = 0; row < rows_; ++row) {
            const auto* q = reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(args_.q) +
                                                           view_.stream * args_.q_stream_stride +
                                                           (view_.token0 + row / group_) * args_.q_token_stride +
                                                           (head_ * group_ + row % group_) * args_.q_head_stride);
            float* to = q_ + row * args_.d_k;
            float dot = 0.0f;
            for (int64_t i = 0; i < args_.d_k; ++i) {
                to[i] = q[i] * args_.scale;
                dot += to[i] * offset[i];
            }
            base_[row] = dot;
            for (int64_t p = 0; p < pairs_; ++p) {
                const float a = to[first_of_pair(pairing, p)];
                const float b = to[second_of_pair(pairing, p, args_.d_k)];
                q_abs_[row * pairs_ + p] = std::sqrt(a * a + b * b);
            }
        }
    }

    void add_part(const Part& part, const uint8_t* state) {
        parts_.push_back(part);
        has_supers_ = has_supers_ || part.super;
        w_.state.resize(parts_.size() * kernels::kPanelBlocks);
        std::memcpy(w_.state.data() + (parts_.size() - 1) * kernels::kPanelBlocks, state, kernels::kPanelBlocks);
    }

    /** Fills mass and reach of the parts from `first` on. */
    void score(size_t first) {
        const auto size = static_cast<size_t>(static_cast<int64_t>(parts_.size()) * rows_ * kLanes);
        if (w_.mass.size() < size) w_.mass.resize(size);
        if (w_.reach.size() < size) w_.reach.resize(size);
        for (size_t part = first; part < parts_.size(); ++part) score_part(part);
    }

    void score_part(size_t index) {
        const Part& part = parts_[index];
        const Panel& panel = *part.panel;
        const auto rows = static_cast<size_t>(rows_);
        const auto pairs = static_cast<size_t>(pairs_);
        kernels::panel_product(q_, rows, panel.mean, panel.mean_scale, static_cast<size_t>(args_.d_k), panel_,
                               product_);
        std::memcpy(reach_of(index, 0), product_, rows * kernels::kPanelBlocks * sizeof(float));
        if (settings_.estimate == FarEstimate::kBessel) {
            unsigned groups = 0;
            for (size_t b = 0; b < kernels::kPanelBlocks; ++b) {
                groups |= static_cast<unsigned>(w_.state[index * kernels::kPanelBlocks + b] != kUnused) << (b / 16);
            }
            kernels::panel_log_bessel(q_abs_, rows, panel.spread, panel.spread_scale, pairs, groups, panel_, product_);
        }
        std::memcpy(mass_of(index, 0), product_, rows * kernels::kPanelBlocks * sizeof(float));
        const float log_keys = std::log(static_cast<float>(index_.block_keys() * (part.super ? kSuperBlocks : 1)));
        if (settings_.reach_share > 0.0) {
            kernels::panel_product(q_abs_, rows, panel.reach, panel.reach_scale, pairs, panel_, product_);
            for (size_t i = 0; i < rows * kernels::kPanelBlocks; ++i) reach_of(index, 0)[i] += product_[i];
        }
        if (settings_.estimate == FarEstimate::kSecond) add_second_order(panel, log_keys, mass_of(index, 0));
        const uint8_t* state = w_.state.data() + index * kernels::kPanelBlocks;
        for (int64_t row = 0; row < rows_; ++row) {
            float* mass = mass_of(index, row);
            float* reach = reach_of(index, row);
            for (int64_t b = 0; b < kLanes; ++b) {
                mass[b] = state[b] == kUnused ? kMinusInfinity : mass[b] + base_[row] + log_keys;
                reach[b] = state[b] == kUnused ? kMinusInfinity : reach[b] + base_[row];
            }
        }
        if (!part.super) hide_unseen(index);
    }

    /** Gaussian cumulant with the variance of a pair split evenly: t = ½Σ_i q_i²σ_i² = ¼Σ_p |q_p|²r_p², linear beyond s² = 2 ln n. */
    void add_second_order(const Panel& panel, float log_keys, float* mass) const {
        const float limit = std::sqrt(2.0f * log_keys);
        for (int64_t row = 0; row < rows_; ++row) {
            for (int64_t b = 0; b < kLanes; ++b) {
                float t = 0.0f;
                for (int64_t p = 0; p < pairs_; ++p) {
                    const float z = q_abs_[row * pairs_ + p] * panel.spread_scale[b] *
                                    static_cast<float>(panel.spread[p * kLanes + b]);
                    t += 0.25f * z * z;
                }
                const float s = std::sqrt(2.0f * t);
                mass[row * kLanes + b] += s <= limit ? t : s * limit - log_keys;
            }
        }
    }

    /** −inf for blocks that a row's token does not see. */
    void hide_unseen(size_t index) {
        const int64_t bpp = index_.blocks_per_page();
        for (int64_t b = 0; b < kLanes; ++b) {
            if (w_.state[index * kernels::kPanelBlocks + static_cast<size_t>(b)] == kUnused) continue;
            const int64_t page = (parts_[index].first + b) / bpp - view_.base_page;
            if (view_.use[static_cast<size_t>(page)] != PageUse::kFarSome) continue;
            for (int64_t row = 0; row < rows_; ++row) {
                if (visibility_of(args_, view_.stream, view_.token0 + row / group_, page) ==
                    kernels::BlockVisibility::kAll)
                    continue;
                mass_of(index, row)[b] = kMinusInfinity;
                reach_of(index, row)[b] = kMinusInfinity;
            }
        }
    }

    /** Ranks of the lanes over all rows: Σ softmax share, and the largest logit that one key could have relative to the row's far mass. */
    void sum_columns(size_t first) {
        w_.column_mass.assign(parts_.size() * kernels::kPanelBlocks, 0.0f);
        w_.column_reach.assign(parts_.size() * kernels::kPanelBlocks, kMinusInfinity);
        for (int64_t row = 0; row < rows_; ++row) {
            float max = kMinusInfinity;
            for (size_t part = first; part < parts_.size(); ++part)
                max = std::max(max, kernels::max_of(mass_of(part, row), kernels::kPanelBlocks));
            total_[row] = kMinusInfinity;
            if (max == kMinusInfinity) continue;
            float sum = 0.0f;
            for (size_t part = first; part < parts_.size(); ++part) {
                std::memcpy(product_, mass_of(part, row), kernels::kPanelBlocks * sizeof(float));
                sum += kernels::exp_sum(product_, kernels::kPanelBlocks, max);
            }
            total_[row] = max + std::log(sum);
            for (size_t part = first; part < parts_.size(); ++part) {
                std::memcpy(product_, mass_of(part, row), kernels::kPanelBlocks * sizeof(float));
                kernels::exp_sum(product_, kernels::kPanelBlocks, total_[row]);
                float* column_mass = w_.column_mass.data() + part * kernels::kPanelBlocks;
                float* column_reach = w_.column_reach.data() + part * kernels::kPanelBlocks;
                const float* reach = reach_of(part, row);
                for (int64_t b = 0; b < kLanes; ++b) {
                    column_mass[b] += product_[b];
                    column_reach[b] = std::max(column_reach[b], reach[b] - total_[row]);
                }
            }
        }
    }

    /** Scores all super-blocks; keeps those outside the beam as parts and marks their blocks. */
    void expand_best_supers(int64_t begin, int64_t end, std::vector<uint8_t>* in_super) {
        const int64_t bpp = index_.blocks_per_page();
        for (int64_t panel = begin / kSuperBlocks / kLanes; panel * kLanes * kSuperBlocks < end; ++panel) {
            uint8_t state[kLanes] = {};
            bool any = false;
            for (int64_t lane = 0; lane < kLanes; ++lane) {
                const int64_t block = (panel * kLanes + lane) * kSuperBlocks;
                if (block < begin || block + kSuperBlocks > end) continue;
                const auto from = view_.use.begin() + static_cast<std::ptrdiff_t>((block - begin) / bpp);
                const bool whole = std::all_of(from, from + static_cast<std::ptrdiff_t>(kSuperBlocks / bpp),
                                               [](PageUse use) { return use == PageUse::kFar; });
                if (!whole || !index_.super_fresh(block / kSuperBlocks)) continue;
                state[lane] = kCandidate;
                any = true;
            }
            if (any) add_part({index_.super_panel(head_, panel), panel * kLanes, true}, state);
        }
        score(0);
        sum_columns(0);
        std::vector<int64_t> supers;
        for (size_t i = 0; i < w_.state.size(); ++i) {
            if (w_.state[i] == kCandidate) supers.push_back(static_cast<int64_t>(i));
        }
        const size_t n = std::min(supers.size(), static_cast<size_t>(settings_.beam / kSuperBlocks));
        const auto expand = [&](const std::vector<float>& rank, size_t from, size_t to) {
            std::nth_element(supers.begin() + static_cast<std::ptrdiff_t>(from),
                             supers.begin() + static_cast<std::ptrdiff_t>(to), supers.end(), [&](int64_t a, int64_t b) {
                                 const float x = rank[static_cast<size_t>(a)];
                                 const float y = rank[static_cast<size_t>(b)];
                                 return x != y ? x > y : a < b;
                             });
        };
        const auto by_reach = static_cast<size_t>(static_cast<double>(n) * settings_.reach_share);
        if (n < supers.size()) {
            expand(w_.column_mass, 0, n - by_reach);
            if (by_reach > 0) expand(w_.column_reach, n - by_reach, n);
        }
        for (size_t i = 0; i < supers.size(); ++i) {
            const auto lane = static_cast<size_t>(supers[i]);
            if (i < n) {
                w_.state[lane] = kUnused;
                for (int64_t row = 0; row < rows_; ++row) {
                    mass_of(lane / kernels::kPanelBlocks, row)[lane % kernels::kPanelBlocks] = kMinusInfinity;
                    reach_of(lane / kernels::kPanelBlocks, row)[lane % kernels::kPanelBlocks] = kMinusInfinity;
                }
            } else {
                const int64_t block =
                    (parts_[lane / kernels::kPanelBlocks].first + static_cast<int64_t>(lane % kernels::kPanelBlocks)) *
                    kSuperBlocks;
                std::fill_n(in_super->begin() + static_cast<std::ptrdiff_t>(block - begin), kSuperBlocks,
                            static_cast<uint8_t>(1));
            }
        }
    }

    const kernels::AttentionArgs& args_;
    const KvIndex& index_;
    const Settings& settings_;
    const TileView& view_;
    const int64_t head_;
    const int64_t group_;
    const int64_t rows_;
    const int64_t pairs_;
    FarWorkspace& w_;
    float* q_;        // [rows][d_k], scaled
    float* q_abs_;    // [rows][d_k / 2], length of each pair
    float* base_;     // [rows] q · offset of the head
    float* total_;    // [rows] log mass of all far parts
    float* panel_;    // [d_k][64]
    float* product_;  // [rows][64]
    bool has_supers_ = false;
    std::vector<Part> parts_;
};

}  // namespace

void plan_far_field(const kernels::AttentionArgs& args, const KvIndex& index, const Settings& settings,
                    const TileView& view, int64_t kv_head, int64_t budget, FarWorkspace* work, float* far_lse,
                    float* far_out, FarResult* result) {
    work->state.clear();
    FarField field(args, index, settings, view, kv_head, work);
    field.find_parts();
    field.select(budget);
    field.estimate(far_lse, far_out);
    if (settings.probes > 0 && view.tokens == 1 && settings.estimate != FarEstimate::kDrop) {
        const double ratio = field.probe(far_lse, result);
        // Depends on this query alone, so that a slot's answer does not depend on what other slots asked before.
        if (std::fabs(std::log(ratio)) > settings.probe_limit) {
            result->grown = true;
            field.select(2 * budget);
            field.estimate(far_lse, far_out);
        }
    }
    field.collect(result);
}

}  // namespace atlas::attention
