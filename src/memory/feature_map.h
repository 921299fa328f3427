#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace atlas::memory {

/** What a key or query becomes before the memory sees it (arXiv 2505.23735, section 3.1, and two classical kernels). */
enum class FeatureType : uint8_t {
    kIdentity,
    kPolynomial,   ///< a_n times every monomial of degree n ≤ p: C(d + p, p) features
    kExponential,  ///< truncated exponential: φ(q)·φ(k) = Σ_{n ≤ p} (q·k)^n / n! with the same number of features
    kFourier,  ///< √(2/D)·cos(ωx + b), ω normal with standard deviation 1/bandwidth: φ(q)·φ(k) ≈ exp(−‖q − k‖² / 2 bandwidth²)
    kRbf,  ///< exp(−‖x − c‖² / 2 bandwidth²) around D centres
};

struct FeatureConfig {
    FeatureType type = FeatureType::kPolynomial;
    size_t d = 0;            ///< elements of an input
    int degree = 2;          ///< p, 1 to 3, of kPolynomial and kExponential
    size_t features = 256;   ///< D of kFourier and kRbf
    double bandwidth = 0.0;  ///< of kFourier and kRbf; 0: √d, or 1 for normalised inputs
    bool normalize = false;  ///< inputs are scaled to length 1 first (a zero input stays zero)
    uint64_t seed = 1;       ///< of ω, b and the first centres
};

Status check_features(const FeatureConfig& config);
/** Number of features D. */
size_t feature_count(const FeatureConfig& config);

/** One feature map, used for keys and queries alike. Reading is thread-safe, set_* is not. */
class FeatureMap {
public:
    /** `config` must pass check_features. */
    explicit FeatureMap(const FeatureConfig& config);

    const FeatureConfig& config() const { return config_; }
    size_t features() const { return features_; }

    /** out[n][features()] = φ(x[n][d]). */
    void map(const float* x, size_t n, float* out) const;

    /** a_0 … a_p of kPolynomial and kExponential, 1 and 1/√n! at first; empty for the others. */
    std::span<const double> coefficients() const { return coefficients_; }
    /** Replaces them; as many as before. */
    void set_coefficients(std::span<const double> coefficients);
    /**
     * out[p + 1] = ∂ℓ/∂a_n over n rows, given ∂ℓ/∂φ [n][features()] (memory_gradient's x_gradient). Polynomial kinds only.
     */
    void coefficient_gradient(const float* x, size_t n, const float* feature_gradient, double* out) const;

    /** ω [features][d], or centres; b [features]. For tests and for storing. */
    std::span<const float> weights() const { return weights_; }
    std::span<const float> phases() const { return phases_; }
    /** Replaces the centres of kRbf, [features][d]. */
    void set_centres(std::span<const float> centres);

private:
    void monomials(const float* x, float* out) const;
    void rescale();
    const float* normalized(const float* x, std::vector<float>* buffer) const;

    FeatureConfig config_;
    size_t features_;
    double bandwidth_;
    std::vector<double> coefficients_;
    std::vector<size_t> starts_;       // first feature of each degree, and the end
    std::vector<float> multiplicity_;  // √(n! / Πc!) for kExponential, else 1
    std::vector<float> scale_;         // coefficient times multiplicity
    std::vector<float> weights_, phases_, centre_squares_;
};

}  // namespace atlas::memory
