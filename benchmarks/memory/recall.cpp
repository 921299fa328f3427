#include "recall.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "memory/closed_form.h"
#include "memory/feature_map.h"

namespace mem = atlas::memory;

namespace {

std::vector<float> unit_rows(size_t n, size_t d, std::mt19937_64* random) {
    std::normal_distribution<double> normal;
    std::vector<float> rows(n * d);
    for (size_t i = 0; i < n; ++i) {
        double square = 0.0;
        std::vector<double> row(d);
        for (double& x : row) {
            x = normal(*random);
            square += x * x;
        }
        for (size_t j = 0; j < d; ++j) rows[i * d + j] = static_cast<float>(row[j] / std::sqrt(square));
    }
    return rows;
}

/**
 * φ of unit keys with φ(q)·φ(k) = length²·Σ share_n (q·k)^n: most of the weight on the highest degree, whose features tell keys apart best (what
 * plain monomials of unscaled normal keys have).
 */
mem::FeatureMap features(size_t d, int degree, double length) {
    mem::FeatureMap map({mem::FeatureType::kExponential, d, degree});
    std::vector<double> scale(static_cast<size_t>(degree) + 1, length * std::sqrt(0.2 / static_cast<double>(degree)));
    scale.back() = length * std::sqrt(0.8);
    map.set_coefficients(scale);
    return map;
}

std::vector<double> answers_of_weights(const std::vector<double>& w, const std::vector<double>& x, size_t n,
                                       size_t d_in, size_t d_out) {
    std::vector<double> y(n * d_out, 0.0);
    for (size_t i = 0; i < n; ++i) {
        for (size_t o = 0; o < d_out; ++o) {
            for (size_t j = 0; j < d_in; ++j) y[i * d_out + o] += w[o * d_in + j] * x[i * d_in + j];
        }
    }
    return y;
}

std::vector<double> closed_form(const Method& method, const std::vector<float>& keys, const std::vector<double>& v,
                                size_t n, size_t d) {
    // Degree 1 is the key itself, without a constant: what the published figures call φ1.
    const mem::FeatureMap map =
        method.degree == 1 ? mem::FeatureMap({mem::FeatureType::kIdentity, d}) : features(d, method.degree, 1.0);
    const size_t f = map.features();
    std::vector<float> mapped(n * f);
    map.map(keys.data(), n, mapped.data());
    const std::vector<double> x(mapped.begin(), mapped.end());
    std::vector<double> w;
    switch (method.kind) {
        case Method::kHebbian:
            w = mem::hebbian(x, v, n, f, d);
            break;
        case Method::kRidge:
            if (!mem::ridge(x, v, n, f, d, 1e-6, &w).is_ok()) return {};
            break;
        case Method::kRecursive: {
            mem::RecursiveLeastSquares rls(f, d, 1e-6);
            for (size_t i = 0; i < n; ++i) rls.learn(x.data() + i * f, v.data() + i * d);
            w = rls.weights();
            break;
        }
        default: {
            mem::DeltaRule delta(f, d, 1.0);
            for (size_t i = 0; i < n; ++i) delta.learn(x.data() + i * f, v.data() + i * d);
            w = delta.weights();
        }
    }
    return answers_of_weights(w, x, n, f, d);
}

}  // namespace

double recall(const RecallTask& task, const Method& method) {
    std::mt19937_64 random(task.seed);
    const std::vector<float> keys = unit_rows(task.pairs, task.d, &random);
    const std::vector<float> values = unit_rows(task.pairs, task.d, &random);
    std::vector<double> answers;
    if (method.kind == Method::kLearned) {
        // Inputs of length √D, for which the initial weights are made: shorter ones would leave the GELU in its linear part.
        const size_t d = task.d;
        const bool identity = method.degree == 1;
        const size_t f = identity ? d : mem::feature_count({mem::FeatureType::kExponential, d, method.degree});
        const double length = std::sqrt(static_cast<double>(f));
        std::vector<float> x(task.pairs * f);
        if (identity) {
            for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(length) * keys[i];
        } else {
            features(d, method.degree, length).map(keys.data(), task.pairs, x.data());
        }
        mem::MemoryShape shape = method.shape;
        shape.d_in = f;
        shape.d_out = d;
        mem::OmegaLearner memory(shape, method.rule, task.seed);
        for (size_t i = 0; i < task.pairs; i += method.chunk) {
            memory.learn(x.data() + i * f, values.data() + i * d, nullptr, std::min(method.chunk, task.pairs - i));
        }
        std::vector<float> out(values.size());
        memory.read(x.data(), task.pairs, out.data());
        answers.assign(out.begin(), out.end());
    } else {
        answers = closed_form(method, keys, {values.begin(), values.end()}, task.pairs, task.d);
    }
    if (answers.empty()) return NAN;
    size_t right = 0;
    for (size_t i = 0; i < task.pairs; ++i) {
        size_t best = 0;
        double best_dot = -HUGE_VAL;
        for (size_t j = 0; j < task.pairs; ++j) {
            double dot = 0.0;
            for (size_t o = 0; o < task.d; ++o)
                dot += answers[i * task.d + o] * static_cast<double>(values[j * task.d + o]);
            if (dot > best_dot) {
                best_dot = dot;
                best = j;
            }
        }
        right += best == i;
    }
    return static_cast<double>(right) / static_cast<double>(task.pairs);
}
