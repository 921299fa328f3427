#pragma once

#include <cstddef>
#include <vector>

#include "base/status.h"

/** Linear memories without tuning, in float64: what a learned memory has to be compared with. Matrices are row-major. */
namespace atlas::memory {

/** The lower half of A [n][n], symmetric, becomes L of A = L Lᵀ; the upper one is not touched. False, A then being spoilt, unless A is positive definite. */
bool cholesky(std::vector<double>* a, size_t n);

/** A ← A⁻¹ of a symmetric A [n][n], of which the lower half is read. False, A then being spoilt, unless A is positive definite. */
bool invert_symmetric(std::vector<double>* a, size_t n);

/** W [d_out][d_in] minimising Σ‖W x_i − v_i‖² + lambda‖W‖²; x [n][d_in], v [n][d_out]. Fails when lambda = 0 meets a singular Σxxᵀ. */
Status ridge(const std::vector<double>& x, const std::vector<double>& v, size_t n, size_t d_in, size_t d_out,
             double lambda, std::vector<double>* w);

/** W = Σ v_i x_iᵀ. */
std::vector<double> hebbian(const std::vector<double>& x, const std::vector<double>& v, size_t n, size_t d_in,
                            size_t d_out);

/**
 * Recursive least squares: after n pairs W is ridge's with the same lambda, old pairs weighted by forgetting^age (lambda as well). It is the Omega
 * rule's limit for a linear memory and an unlimited window. `bounded`: nothing is forgotten while P would grow beyond its start, which it otherwise
 * does without end in directions that no input has.
 */
class RecursiveLeastSquares {
public:
    RecursiveLeastSquares(size_t d_in, size_t d_out, double lambda, double forgetting = 1.0, bool bounded = false);
    void learn(const double* x, const double* v);
    const std::vector<double>& weights() const { return w_; }
    /** (Σ xxᵀ + λI)⁻¹, [d_in][d_in]. */
    const std::vector<double>& covariance() const { return p_; }
    /** Goes on from W [d_out][d_in] and, unless null, from P [d_in][d_in]. */
    void set_state(const float* weights, const float* covariance);

private:
    size_t d_in_, d_out_;
    double forgetting_, trace_limit_;
    std::vector<double> w_, p_, px_;  // P = (Σ xxᵀ + λI)⁻¹
};

/** The delta rule: W ← W + step·(v − W x)xᵀ / ‖x‖² (one pass of normalised least mean squares). */
class DeltaRule {
public:
    DeltaRule(size_t d_in, size_t d_out, double step);
    void learn(const double* x, const double* v);
    const std::vector<double>& weights() const { return w_; }

private:
    size_t d_in_, d_out_;
    double step_;
    std::vector<double> w_;
};

}  // namespace atlas::memory
