#include "attention/select/far_field.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "attention/index/block_mass.h"
#include "attention/select/probe.h"
#include "kernels/select.h"

namespace atlas::attention {
namespace {

constexpr auto kLanes = static_cast<int64_t>(kernels::kPanelBlocks);
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
// Of the super-blocks that are looked into, at least this share is chosen by reach (unless nothing is): the mean of 512 keys says little of one.
constexpr double kSuperReachShare = 0.75;

enum Lane : uint8_t { kUnused, kCandidate, kSelected };

class FarField {
public:
    FarField(const kernels::AttentionArgs& args, const KvIndex& index, const Settings& settings, const TileView& view,
             int64_t kv_head, const NearPart& near, FarWorkspace* work)
        : args_(args),
          index_(index),
          calibration_(index.calibration(view.base_page)),
          settings_(settings),
          view_(view),
          near_(near),
          head_(kv_head),
          group_(args.n_head / args.n_head_kv),
          rows_(view.tokens * group_),
          pairs_(args.d_k / 2),
          w_(*work) {
        w_.parts.clear();
        w_.state.clear();
        const auto round = [](int64_t n) { return (n + 15) / 16 * 16; };
        const int64_t floats =
            2 * round(rows_ * args.d_k) + round(rows_ * pairs_) + 7 * round(rows_) + args.d_k * kLanes + rows_ * kLanes;
        w_.memory.resize(static_cast<size_t>(floats + 16));
        float* at = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(w_.memory.data()) + 63) / 64 * 64);
        const auto take = [&](int64_t n) {
            float* part = at;
            at += round(n);
            return part;
        };
        q_ = take(rows_ * args.d_k);
        q_abs_ = take(rows_ * pairs_);
        base_ = take(rows_);
        max_ = take(rows_);
        sum_ = take(rows_);
        factor_ = take(rows_);
        trusted_ = take(rows_);
        super_ = take(rows_);
        slope_ = take(rows_);
        steps_ = take(rows_ * args.d_k);
        panel_ = take(args.d_k * kLanes);
        product_ = take(rows_ * kLanes);
        load_queries();
    }

    void find_parts() {
        const std::vector<FarPanel>& panels = view_.panels;
        w_.hidden.assign(panels.size(), 0);
        const bool supers = view_.far_pages * index_.blocks_per_page() > int64_t{settings_.beam};
        if (calibration_.slope_factor[static_cast<size_t>(head_)] != 0.0f) {
            calibration_.slopes[static_cast<size_t>(head_)].fetch();
            if (supers) calibration_.super_slopes[static_cast<size_t>(head_)].fetch();
        }
        if (supers) expand_best_supers();
        first_block_ = w_.parts.size();
        for (size_t i = 0; i < panels.size(); ++i) {
            if (w_.hidden[i]) continue;
            const FarPanel& panel = panels[i];
            uint8_t state[kLanes];
            for (int64_t b = 0; b < kLanes; ++b) state[b] = (panel.lanes >> b & 1) != 0 ? kCandidate : kUnused;
            add_part({index_.panel(head_, panel.panel), panel.panel, false, panel.all_tokens}, state);
        }
        score(first_block_);
        rank();
    }

    /** Marks lanes as selected. */
    void select(const FarBudget& budget) {
        const auto blocks = [&](int64_t keys) {
            return static_cast<size_t>((keys + index_.block_keys() - 1) / index_.block_keys());
        };
        const size_t first = first_block_ * kernels::kPanelBlocks;
        const auto share = static_cast<float>(budget.block_share);
        size_t candidates = 0;
        size_t large = 0;
        for (size_t i = first; i < w_.state.size(); ++i) {
            if (w_.state[i] == kUnused) continue;
            w_.state[i] = kCandidate;
            ++candidates;
            large += w_.column_mass[i] >= share;
        }
        // As many as hold enough; which ones they are is also a matter of reach.
        const size_t n = std::min({std::max(large, blocks(budget.least)), blocks(budget.most), candidates});
        const auto by_reach = static_cast<size_t>(static_cast<double>(n) * settings_.reach_share);
        choose(w_.column_mass, n - by_reach, first);
        if (settings_.epsilon > 0.0 && !keep_until_epsilon(first, blocks(budget.least))) return;
        choose(w_.column_reach, by_reach, first);
    }

    /** Log mass and mean value per row over what is not selected. */
    void estimate(float* far_lse, float* far_out) {
        const auto d_v = static_cast<size_t>(args_.d_v);
        std::fill(far_out, far_out + rows_ * args_.d_v, 0.0f);
        if (settings_.estimate == FarEstimate::kDrop) {
            std::fill(far_lse, far_lse + rows_, kMinusInfinity);
            return;
        }
        std::fill(sum_, sum_ + rows_, 0.0f);
        std::fill(trusted_, trusted_ + rows_, 0.0f);
        std::fill(super_, super_ + rows_, 0.0f);
        for (size_t part = 0; part < w_.parts.size(); ++part) {
            const uint8_t* state = w_.state.data() + part * kernels::kPanelBlocks;
            const Panel& panel = *w_.parts[part].panel;
            float keep[kLanes];
            float factor[kLanes];
            for (int64_t b = 0; b < kLanes; ++b) {
                keep[b] = state[b] == kCandidate ? 1.0f : 0.0f;
                factor[b] = keep[b] * panel.value_scale[b];
            }
            for (int64_t row = 0; row < rows_; ++row) {
                const float* weight = weight_of(part, row);
                const float* trust = trust_of(part, row);
                float* scaled = product_ + row * kLanes;
                float sum = 0.0f;
                float trusted = 0.0f;
                for (int64_t b = 0; b < kLanes; ++b) {
                    sum += weight[b] * keep[b];
                    const float given = weight[b] * trust[b];
                    trusted += given * keep[b];
                    scaled[b] = given * factor[b];
                }
                sum_[row] += sum;
                trusted_[row] += trusted;
                if (w_.parts[part].super) super_[row] += trusted;
            }
            kernels::panel_value(product_, static_cast<size_t>(rows_), panel.value(), d_v, far_out);
        }
        for (int64_t row = 0; row < rows_; ++row) {
            const float s = trusted_[row];
            far_lse[row] = s > 0.0f ? max_[row] + std::log(s) : kMinusInfinity;
            const float inverse = s > 0.0f ? 1.0f / s : 0.0f;
            for (int64_t i = 0; i < args_.d_v; ++i) far_out[row * args_.d_v + i] *= inverse;
            slope_[row] = s > 0.0f ? calibration_.slope_factor[static_cast<size_t>(head_)] : 0.0f;
            super_[row] *= slope_[row] * inverse;
        }
        if (calibration_.slope_factor[static_cast<size_t>(head_)] == 0.0f) return;
        const auto head = static_cast<size_t>(head_);
        calibration_.slopes[head].apply(q_, rows_, args_.d_k, args_.d_v, slope_, steps_, far_out);
        if (has_supers_)
            calibration_.super_slopes[head].apply(q_, rows_, args_.d_k, args_.d_v, super_, steps_, far_out);
    }

    /** After estimate() and before collect(), whose result->selected it uses: reads a few far blocks drawn by their estimated mass; adds true ÷ estimated mass to the result. */
    double probe(const float* far_lse, FarResult* result) const {
        double ratios = 0.0;
        double n = 0.0;
        const kernels::HeadRuns& list = args_.runs[view_.stream * args_.n_head_kv + head_];
        ProbeRandom random(static_cast<uint64_t>(settings_.seed), q_, args_.d_k);
        for (int i = 0; i < settings_.probes; ++i) {
            const int64_t row = std::min(rows_ - 1, static_cast<int64_t>(random.next() * static_cast<double>(rows_)));
            if (far_lse[row] == kMinusInfinity) continue;
            // Inverse of the distribution function, walked over the lanes.
            float left = static_cast<float>(random.next()) * sum_[row];
            int64_t lane = -1;
            for (size_t part = 0; part < w_.parts.size() && left > 0.0f; ++part) {
                if (w_.parts[part].super) continue;
                const float* weight = weight_of(part, row);
                const uint8_t* state = w_.state.data() + part * kernels::kPanelBlocks;
                for (int64_t b = 0; b < kLanes && left > 0.0f; ++b) {
                    if (state[b] != kCandidate || weight[b] == 0.0f) continue;
                    left -= weight[b];
                    lane = static_cast<int64_t>(part) * kLanes + b;
                }
            }
            // Mass inside super-blocks is not probed: the ratio is then that of the blocks alone.
            if (lane < 0 || (left > 0.0f && has_supers_)) continue;
            for (int64_t x = 0; x < args_.d_k; ++x)
                panel_[x] = q_[row * args_.d_k + x] + calibration_.tilt[static_cast<size_t>(head_ * args_.d_k + x)];
            const auto part = static_cast<size_t>(lane / kLanes);
            result->selected.clear();
            keys_of(part, lane_bit(lane % kLanes), &result->selected);
            const double truth = log_mass(args_, list, result->selected, panel_, &w_.probe);
            const double error = truth - static_cast<double>(mass_of(part, row)[lane % kLanes]);
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
        // Parts of blocks are ascending, and so are the cells of each.
        for (size_t i = 0; i < w_.parts.size(); ++i) {
            const FarPart& part = w_.parts[i];
            const uint8_t* state = w_.state.data() + i * kernels::kPanelBlocks;
            unsigned selected = 0;
            int64_t left = 0;
            for (int64_t b = 0; b < kLanes; ++b) {
                selected |= state[b] == kSelected ? lane_bit(b) : 0u;
                left += state[b] == kCandidate;
            }
            result->far_keys += static_cast<double>(left * index_.block_keys() * (part.super ? kSuperBlocks : 1));
            if (selected != 0) keys_of(i, selected, &result->selected);
        }
    }

private:
    float* mass_of(size_t part, int64_t row) const {
        return w_.mass.data() + (static_cast<int64_t>(part) * rows_ + row) * kLanes;
    }
    float* weight_of(size_t part, int64_t row) const {
        return w_.weight.data() + (static_cast<int64_t>(part) * rows_ + row) * kLanes;
    }
    float* trust_of(size_t part, int64_t row) const {
        return w_.trust.data() + (static_cast<int64_t>(part) * rows_ + row) * kLanes;
    }
    float* reach_of(size_t part, int64_t row) const {
        return w_.reach.data() + (static_cast<int64_t>(part) * rows_ + row) * kLanes;
    }

    static unsigned lane_bit(int64_t lane) { return 1u << lane; }

    /** Appends the keys of lanes of a part, ascending. What pages that are not in use hold belongs to no lane. */
    void keys_of(size_t index, unsigned wanted, std::vector<PageCells>* keys) const {
        const FarPart& part = w_.parts[index];
        const uint8_t* state = w_.state.data() + index * kernels::kPanelBlocks;
        unsigned used = 0;
        for (int64_t b = 0; b < kLanes; ++b) used |= state[b] != kUnused ? lane_bit(b) : 0u;
        const int64_t bpp = index_.blocks_per_page();
        const int64_t pages = index_.pages_per_super();
        uint64_t cells[kLanes];
        kernels::cells_of_lanes(part.panel->member(), static_cast<size_t>(pages), static_cast<uint16_t>(wanted), cells);
        for (int64_t page = 0; page < pages; ++page) {
            if (cells[page] == 0 || (used >> (page * bpp) & ((1u << bpp) - 1)) == 0) continue;
            keys->push_back({(part.number * pages + page - view_.base_page) * kv::kPageRows, cells[page]});
        }
    }

    void load_queries() {
        const Pairing pairing = index_.pairing();
        const float* offset = calibration_.offset.data() + head_ * args_.d_k;
        const float* tilt = calibration_.tilt.data() + head_ * args_.d_k;
        for (int64_t row = 0; row < rows_; ++row) {
            const float* q = query_of(args_, view_.stream, view_.token0 + row / group_, head_ * group_ + row % group_);
            float* to = q_ + row * args_.d_k;
            float dot = 0.0f;
            for (int64_t i = 0; i < args_.d_k; ++i) {
                to[i] = q[i] * args_.scale - tilt[i];
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

    void add_part(const FarPart& part, const uint8_t* state) {
        w_.parts.push_back(part);
        has_supers_ = has_supers_ || part.super;
        w_.state.resize(w_.parts.size() * kernels::kPanelBlocks);
        std::memcpy(w_.state.data() + (w_.parts.size() - 1) * kernels::kPanelBlocks, state, kernels::kPanelBlocks);
    }

    /** Fills mass and reach of the parts from `first` on. */
    void score(size_t first) {
        const auto size = static_cast<size_t>(static_cast<int64_t>(w_.parts.size()) * rows_ * kLanes);
        for (auto* buffer : {&w_.mass, &w_.weight, &w_.reach, &w_.trust}) {
            if (buffer->size() < size) buffer->resize(size);
        }
        for (size_t part = first; part < w_.parts.size(); ++part) {
            if (part == first) fetch(*w_.parts[part].panel);
            if (part + 1 < w_.parts.size()) fetch(*w_.parts[part + 1].panel);
            score_part(part);
        }
    }

    /** Panels lie anywhere in memory: without this each begins with a few misses, one after the other. */
    static void fetch(const Panel& panel) {
        const auto touch = [](const void* memory, size_t bytes) {
            for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const std::byte*>(memory) + i);
        };
        touch(&panel, sizeof panel);
        touch(panel.data.get(), static_cast<size_t>(panel.data_bytes));
    }

    void score_part(size_t index) {
        const FarPart& part = w_.parts[index];
        const Panel& panel = *part.panel;
        const auto rows = static_cast<size_t>(rows_);
        const auto pairs = static_cast<size_t>(pairs_);
        float* mass = mass_of(index, 0);
        float* reach = reach_of(index, 0);
        float mean_scale[kLanes];
        float spread_scale[kLanes];
        float reach_scale[kLanes];
        for (int64_t b = 0; b < kLanes; ++b) {
            mean_scale[b] = panel.mean_scale[b];
            spread_scale[b] = panel.spread_scale[b];
            reach_scale[b] = panel.reach_scale[b];
        }
        kernels::panel_product(q_, rows, panel.mean(), mean_scale, static_cast<size_t>(args_.d_k), panel_, mass);
        if (settings_.reach_share > 0.0) {
            kernels::panel_product(q_abs_, rows, panel.reach(), reach_scale, pairs, panel_, reach);
            for (int64_t i = 0; i < rows_ * kLanes; ++i) reach[i] += mass[i];
        } else {
            std::copy(mass, mass + rows_ * kLanes, reach);
        }
        float* trust = trust_of(index, 0);
        if (settings_.estimate == FarEstimate::kBessel) {
            add_bessel(panel, q_abs_, rows_, spread_scale, settings_.alike, panel_, trust, mass);
        } else {
            std::fill(trust, trust + rows_ * kLanes, 1.0f);
        }
        if (settings_.estimate == FarEstimate::kSecond) {
            const int64_t keys = index_.block_keys() * (part.super ? kSuperBlocks : 1);
            add_second_order(panel, q_abs_, rows_, spread_scale, std::log(static_cast<float>(keys)), mass);
        }
        const uint8_t* state = w_.state.data() + index * kernels::kPanelBlocks;
        float unseen[kLanes];
        for (int64_t b = 0; b < kLanes; ++b) unseen[b] = state[b] == kUnused ? kMinusInfinity : 0.0f;
        for (int64_t row = 0; row < rows_; ++row) {
            for (int64_t b = 0; b < kLanes; ++b) {
                mass[row * kLanes + b] += base_[row] + panel.log_mass[b] + unseen[b];
                reach[row * kLanes + b] += base_[row] + panel.peak[b] + unseen[b];
            }
        }
        if (!part.super && !part.all_tokens) hide_unseen(index);
    }

    /** −inf for blocks that a row's token does not see. */
    void hide_unseen(size_t index) {
        const int64_t bpp = index_.blocks_per_page();
        for (int64_t b = 0; b < kLanes; ++b) {
            if (w_.state[index * kernels::kPanelBlocks + static_cast<size_t>(b)] == kUnused) continue;
            const int64_t page = (w_.parts[index].number * kLanes + b) / bpp - view_.base_page;
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

    /**
     * Fills weight, and the ranks of the lanes over all rows: the mean share of a row's attention, and the largest that one key could hold (its
     * logarithm). Attention is what is read in any case and all far parts together, so a row that hardly looks so far has little to say.
     */
    void rank() {
        const auto lanes = kernels::kPanelBlocks;
        w_.column_mass.assign(w_.parts.size() * lanes, 0.0f);
        w_.column_reach.assign(w_.parts.size() * lanes, kMinusInfinity);
        std::fill(max_, max_ + rows_, kMinusInfinity);
        std::fill(sum_, sum_ + rows_, 0.0f);
        for (size_t part = 0; part < w_.parts.size(); ++part) {
            for (int64_t row = 0; row < rows_; ++row)
                max_[row] = std::max(max_[row], kernels::max_of(mass_of(part, row), lanes));
        }
        for (size_t part = 0; part < w_.parts.size(); ++part) {
            std::memcpy(weight_of(part, 0), mass_of(part, 0), static_cast<size_t>(rows_ * kLanes) * sizeof(float));
            for (int64_t row = 0; row < rows_; ++row) {
                // A row that sees no far block: any shift keeps −inf at weight 0.
                const float shift = max_[row] == kMinusInfinity ? 0.0f : max_[row];
                sum_[row] += kernels::exp_sum(weight_of(part, row), lanes, shift);
            }
        }
        for (int64_t row = 0; row < rows_; ++row) {
            if (!(sum_[row] > 0.0f)) {
                // No far block: nothing reaches beyond +inf.
                factor_[row] = 0.0f;
                sum_[row] = -kMinusInfinity;
                continue;
            }
            const float far = max_[row] + std::log(sum_[row]);
            const float near = near_.lse[row / group_ * near_.token_stride + row % group_];
            const float top = std::max(far, near);
            const float all = top + std::log(std::exp(far - top) + std::exp(near - top));
            factor_[row] = std::exp(max_[row] - all) / static_cast<float>(rows_);
            sum_[row] = all;
        }
        for (size_t part = 0; part < w_.parts.size(); ++part) {
            float* column_mass = w_.column_mass.data() + part * lanes;
            float* column_reach = w_.column_reach.data() + part * lanes;
            for (int64_t row = 0; row < rows_; ++row) {
                const float* weight = weight_of(part, row);
                const float* reach = reach_of(part, row);
                for (int64_t b = 0; b < kLanes; ++b) {
                    column_mass[b] += weight[b] * factor_[row];
                    column_reach[b] = std::max(column_reach[b], reach[b] - sum_[row]);
                }
            }
        }
    }

    /** Scores all super-blocks; keeps those outside the beam as parts and hides their panels. */
    void expand_best_supers() {
        const std::vector<FarPanel>& panels = view_.panels;
        w_.panel_of.clear();
        for (size_t i = 0; i < panels.size();) {
            const int64_t number = panels[i].panel / kLanes;
            uint8_t state[kLanes] = {};
            bool any = false;
            w_.panel_of.resize(w_.panel_of.size() + kernels::kPanelBlocks);
            int32_t* panel_of = w_.panel_of.data() + w_.panel_of.size() - kernels::kPanelBlocks;
            for (; i < panels.size() && panels[i].panel / kLanes == number; ++i) {
                if (!panels[i].whole || !index_.super_fresh(panels[i].panel)) continue;
                state[panels[i].panel % kLanes] = kCandidate;
                panel_of[panels[i].panel % kLanes] = static_cast<int32_t>(i);
                any = true;
            }
            if (any) {
                add_part({index_.super_panel(head_, number), number, true, true}, state);
            } else {
                w_.panel_of.resize(w_.panel_of.size() - kernels::kPanelBlocks);
            }
        }
        score(0);
        rank();
        const auto supers = static_cast<size_t>(std::count(w_.state.begin(), w_.state.end(), kCandidate));
        const size_t n = std::min(supers, static_cast<size_t>(settings_.beam / kSuperBlocks));
        const double share = settings_.reach_share > 0.0 ? std::max(settings_.reach_share, kSuperReachShare) : 0.0;
        const auto by_reach = static_cast<size_t>(static_cast<double>(n) * share);
        choose(w_.column_mass, n - by_reach, 0);
        choose(w_.column_reach, by_reach, 0);
        for (size_t lane = 0; lane < w_.state.size(); ++lane) {
            if (w_.state[lane] == kCandidate) w_.hidden[static_cast<size_t>(w_.panel_of[lane])] = 1;
            if (w_.state[lane] != kSelected) continue;
            w_.state[lane] = kUnused;
            for (int64_t row = 0; row < rows_; ++row)
                mass_of(lane / kernels::kPanelBlocks, row)[lane % kernels::kPanelBlocks] = kMinusInfinity;
        }
    }

    /** Selects the `count` candidates of the largest rank among the lanes from `first` on; of equal ones the first. */
    void choose(const std::vector<float>& rank, size_t count, size_t first) {
        if (count == 0) return;
        const size_t n = w_.state.size() - first;
        uint8_t* state = w_.state.data() + first;
        w_.order.resize(n);
        for (size_t i = 0; i < n; ++i) w_.order[i] = state[i] == kCandidate ? kernels::order_key(rank[first + i]) : 0u;
        const uint32_t last = kernels::nth_largest(w_.order.data(), n, count);
        size_t above = 0;
        for (size_t i = 0; i < n; ++i) above += w_.order[i] > last;
        for (size_t i = 0; i < n; ++i) {
            const bool equal = w_.order[i] == last && above < count;
            above += equal;
            if (equal || w_.order[i] > last) state[i] = kSelected;
        }
    }

    /** Of the selected lanes keeps `least` and then the best ones, until what is not selected holds ε of the rows' attention. Whether all are kept. */
    bool keep_until_epsilon(size_t first, size_t least) {
        std::vector<int64_t>& best = w_.best;
        best.clear();
        double left = 0.0;
        for (size_t i = 0; i < w_.state.size(); ++i) {
            if (w_.state[i] != kUnused) left += static_cast<double>(w_.column_mass[i]);
            if (i >= first && w_.state[i] == kSelected) best.push_back(static_cast<int64_t>(i));
        }
        const auto rank = [&](int64_t lane) { return w_.column_mass[static_cast<size_t>(lane)]; };
        std::stable_sort(best.begin(), best.end(), [&](int64_t a, int64_t b) { return rank(a) > rank(b); });
        size_t kept = 0;
        for (; kept < best.size() && (kept < least || left > settings_.epsilon); ++kept)
            left -= static_cast<double>(rank(best[kept]));
        for (size_t i = kept; i < best.size(); ++i) w_.state[static_cast<size_t>(best[i])] = kCandidate;
        return kept == best.size();
    }

    const kernels::AttentionArgs& args_;
    const KvIndex& index_;
    const Calibration& calibration_;
    const Settings& settings_;
    const TileView& view_;
    const NearPart near_;
    const int64_t head_;
    const int64_t group_;
    const int64_t rows_;
    const int64_t pairs_;
    FarWorkspace& w_;
    float* q_;                // [rows][d_k], scaled, less the tilt
    float* q_abs_;            // [rows][d_k / 2], length of each pair
    float* base_;             // [rows] q_ · offset of the head
    float* max_;              // [rows] largest log mass
    float* sum_;              // [rows] of the weights in hand
    float* factor_;           // [rows]
    float* trusted_;          // [rows] of weight · trust of what is estimated
    float* super_;            // [rows] of that, of super-blocks
    float* slope_;            // [rows] share of the values' slope
    float* steps_;            // [rows][d_k]
    float* panel_;            // [d_k][16]
    float* product_;          // [rows][16]
    size_t first_block_ = 0;  // number of the first part that is of blocks; super-blocks come before
    bool has_supers_ = false;
};

}  // namespace

void plan_far_field(const kernels::AttentionArgs& args, const KvIndex& index, const Settings& settings,
                    const TileView& view, int64_t kv_head, const NearPart& near, const FarBudget& budget,
                    FarWorkspace* work, float* far_lse, float* far_out, FarResult* result) {
    FarField field(args, index, settings, view, kv_head, near, work);
    field.find_parts();
    field.select(budget);
    field.estimate(far_lse, far_out);
    if (settings.probes > 0 && view.tokens == 1 && settings.estimate != FarEstimate::kDrop) {
        const double ratio = field.probe(far_lse, result);
        // Depends on this query alone, so that a slot's answer does not depend on what other slots asked before.
        if (std::fabs(std::log(ratio)) > settings.probe_limit) {
            result->grown = true;
            field.select(budget.times(2.0));
            field.estimate(far_lse, far_out);
        }
    }
    field.collect(result);
}

}  // namespace atlas::attention
