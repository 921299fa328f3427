#include "attention/index/tilt.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>
#include <vector>

#include "attention/index/block_mass.h"
#include "kernels/block_moments.h"
#include "kernels/moments.h"

namespace atlas::attention {
namespace {

// The first of each is what heads do best with on average; others have to gain this much, since the sample is small.
constexpr float kFactors[] = {1.0f, 0.5f, 0.0f, 1.5f};
constexpr float kSlopes[] = {1.0f, 0.5f, 0.0f};
constexpr double kClearly = 0.7;
// Of a query's blocks, the share that would be read: those with the most mass are not what the estimate is for.
constexpr int64_t kReadOneOf = 8;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

/** Softmax over `logits`, in place. */
void softmax(std::vector<float>& logits) {
    const float top = *std::max_element(logits.begin(), logits.end());
    float sum = 0.0f;
    for (float& x : logits) sum += x = std::exp(x - top);
    for (float& x : logits) x /= sum;
}

/** out[d_v] = Σ_j weights[j] · rows[j]. */
void mix(const std::vector<float>& weights, const float* rows, std::vector<float>& out) {
    kernels::weighted_sum(rows, weights.size(), out.size(), weights.data(), nullptr, out.data());
}

/** Moments of the sample's blocks under a tilt, in f32. */
struct Moments {
    std::vector<float> log_mass, mean, value, spread;  // [block], [block][d_k], [block][d_v], [block][d_k / 2]
};

void make_moments(const TiltSample& s, const std::vector<float>& tilt, Moments* m) {
    const int64_t blocks = s.n / s.block_keys;
    const int64_t pairs = s.d_k / 2;
    const auto n = static_cast<size_t>(s.block_keys);
    const auto d_k = static_cast<size_t>(s.d_k);
    m->log_mass.resize(static_cast<size_t>(blocks));
    m->mean.resize(static_cast<size_t>(blocks * s.d_k));
    m->value.resize(static_cast<size_t>(blocks * s.d_v));
    m->spread.resize(static_cast<size_t>(blocks * pairs));
    std::vector<float> weights(n), reach(static_cast<size_t>(pairs));
    for (int64_t block = 0; block < blocks; ++block) {
        const float* keys = s.keys + block * s.block_keys * s.d_k;
        const float* values = s.values + block * s.block_keys * s.d_v;
        float* mean = m->mean.data() + block * s.d_k;
        float peak = 0.0f;
        tilted_weights(keys, s.block_keys, s.d_k, tilt.data(), weights.data(), &m->log_mass[static_cast<size_t>(block)],
                       &peak);
        kernels::weighted_sum(keys, n, d_k, weights.data(), nullptr, mean);
        kernels::weighted_sum(values, n, static_cast<size_t>(s.d_v), weights.data(), nullptr,
                              m->value.data() + block * s.d_v);
        kernels::pair_distances(keys, n, d_k, s.pairing == Pairing::kAdjacent, weights.data(), mean,
                                m->spread.data() + block * pairs, reach.data());
    }
}

}  // namespace

void tilted_weights(const float* keys, int64_t n, int64_t d, const float* tilt, float* weights, float* log_mass,
                    float* peak) {
    kernels::row_products(keys, static_cast<size_t>(n), static_cast<size_t>(d), tilt, weights);
    *peak = *std::max_element(weights, weights + n);
    float sum = 0.0f;
    for (int64_t j = 0; j < n; ++j) sum += weights[j] = std::exp(weights[j] - *peak);
    for (int64_t j = 0; j < n; ++j) weights[j] /= sum;
    *log_mass = *peak + std::log(sum);
}

void add_blocks(const float* keys, const float* values, int64_t n, int64_t block_keys, const float* tilt, int64_t d_k,
                int64_t d_v, ValueSlope* slope) {
    thread_local std::vector<float> weights, mean;
    weights.resize(static_cast<size_t>(block_keys));
    mean.resize(static_cast<size_t>(d_k));
    for (int64_t begin = 0; begin < n; begin += block_keys) {
        const float* block = keys + begin * d_k;
        float log_mass = 0.0f;
        float peak = 0.0f;
        tilted_weights(block, block_keys, d_k, tilt, weights.data(), &log_mass, &peak);
        kernels::weighted_sum(block, static_cast<size_t>(block_keys), static_cast<size_t>(d_k), weights.data(), nullptr,
                              mean.data());
        slope->add(block, values + begin * d_v, weights.data(), mean.data(), log_mass, block_keys, d_k, d_v);
    }
}

TiltChoice choose_tilt(const TiltSample& s) {
    const int64_t blocks = s.n / s.block_keys;
    const int64_t pairs = s.d_k / 2;
    const int64_t read = blocks / kReadOneOf;
    std::vector<float> truth(static_cast<size_t>(s.n_queries * s.d_v)), logits(static_cast<size_t>(s.n));
    std::vector<float> unread(static_cast<size_t>(s.n_queries * blocks), 0.0f);  // −inf: read
    std::vector<std::pair<float, int64_t>> order(static_cast<size_t>(blocks));
    std::vector<float> out(static_cast<size_t>(s.d_v));
    for (int64_t row = 0; row < s.n_queries; ++row) {
        kernels::row_products(s.keys, static_cast<size_t>(s.n), static_cast<size_t>(s.d_k), s.queries + row * s.d_k,
                              logits.data());
        for (int64_t block = 0; block < blocks; ++block) {
            std::vector<float> keys(logits.begin() + block * s.block_keys, logits.begin() + (block + 1) * s.block_keys);
            const float top = kernels::max_of(keys.data(), keys.size());
            order[static_cast<size_t>(block)] = {-top - std::log(kernels::exp_sum(keys.data(), keys.size(), top)),
                                                 block};
        }
        std::partial_sort(order.begin(), order.begin() + read, order.end());
        for (int64_t i = 0; i < read; ++i) {
            const int64_t block = order[static_cast<size_t>(i)].second;
            unread[static_cast<size_t>(row * blocks + block)] = kMinusInfinity;
            std::fill_n(logits.begin() + block * s.block_keys, s.block_keys, kMinusInfinity);
        }
        softmax(logits);
        mix(logits, s.values, out);
        std::copy(out.begin(), out.end(), truth.begin() + row * s.d_v);
    }
    Moments moments;
    std::vector<float> tilt(static_cast<size_t>(s.d_k)), q(static_cast<size_t>(s.d_k));
    std::vector<float> mass(static_cast<size_t>(blocks));
    std::vector<float> step(out.size()), scratch(q.size());
    const float whole = 1.0f;
    double best = INFINITY;
    TiltChoice chosen;
    for (const float factor : kFactors) {
        for (int64_t i = 0; i < s.d_k; ++i) tilt[static_cast<size_t>(i)] = factor * s.mean_query[i];
        make_moments(s, tilt, &moments);
        ValueSlope slope;
        add_blocks(s.slope_keys, s.slope_values, s.slope_n, s.block_keys, tilt.data(), s.d_k, s.d_v, &slope);
        double errors[std::size(kSlopes)] = {};
        for (int64_t row = 0; row < s.n_queries; ++row) {
            for (int64_t i = 0; i < s.d_k; ++i)
                q[static_cast<size_t>(i)] = s.queries[row * s.d_k + i] - tilt[static_cast<size_t>(i)];
            kernels::row_products(moments.mean.data(), static_cast<size_t>(blocks), static_cast<size_t>(s.d_k),
                                  q.data(), mass.data());
            for (int64_t block = 0; block < blocks; ++block) {
                float circles = 0.0f;
                for (int64_t p = 0; p < pairs; ++p) {
                    const float x = q[static_cast<size_t>(first_of_pair(s.pairing, p))];
                    const float y = q[static_cast<size_t>(second_of_pair(s.pairing, p, s.d_k))];
                    circles += kernels::log_bessel_i0(std::sqrt(x * x + y * y) *
                                                      moments.spread[static_cast<size_t>(block * pairs + p)]);
                }
                mass[static_cast<size_t>(block)] += moments.log_mass[static_cast<size_t>(block)] +
                                                    unread[static_cast<size_t>(row * blocks + block)] +
                                                    (s.alike ? shrunk_mass(circles) : circles);
            }
            softmax(mass);
            mix(mass, moments.value.data(), out);
            std::fill(step.begin(), step.end(), 0.0f);
            slope.apply(q.data(), 1, s.d_k, s.d_v, &whole, scratch.data(), step.data());
            for (size_t x = 0; x < std::size(kSlopes); ++x) {
                for (size_t i = 0; i < out.size(); ++i) {
                    const auto difference = static_cast<double>(out[i] + kSlopes[x] * step[i] -
                                                                truth[static_cast<size_t>(row * s.d_v) + i]);
                    errors[x] += difference * difference;
                }
            }
        }
        for (size_t x = 0; x < std::size(kSlopes); ++x) {
            if (slope.blocks() == 0 && kSlopes[x] != 0.0f) continue;
            if (!(errors[x] < best * kClearly)) continue;
            best = errors[x];
            chosen = {factor, kSlopes[x]};
        }
    }
    return chosen;
}

}  // namespace atlas::attention
