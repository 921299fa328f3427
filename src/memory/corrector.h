#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "memory/closed_form.h"
#include "memory/test_time_memory.h"

namespace atlas::memory {

struct CorrectorConfig {
    MemoryConfig memory;  ///< features.d: elements of a query; d_out: elements of a value
    bool least_squares =
        true;  ///< linear memory, c = ∞, solved instead of descended (memory.features alone count); else the Omega rule
    double ridge = 2.0;         ///< λ of least squares, features of length about √d / 2
    double forgetting = 0.998;  ///< per observation, of least squares
    double gate_limit = 1.0;    ///< ceiling of the gate
    bool dynamic_gate =
        true;  ///< false: the gate is gate_limit from the end of the warm-up on, whatever it does to the error
    double memory_length = 256;  ///< observations over which errors are averaged
    double warm_up = 512;        ///< tokens before the gate may rise
    bool learn = true;           ///< test-time optimisation
};

struct CorrectorStats {
    uint64_t observations = 0;
    double error_without = 0.0;  ///< weighted mean of ‖r‖², exponentially averaged
    double error_with = 0.0;     ///< the same of ‖r − M(q)‖² (gate 1), each taken before its pair was learned
    double gate = 0.0;
};

/** Least squares needs the square of the number of features in float64: at most 1024 features. */
Status check_corrector(const CorrectorConfig& config);

/**
 * Predicts a residual r(q) and says how much of the prediction to use. Every observed pair is held out first: its error counts before it is learned.
 * The gate starts at 0, rises by a sixteenth of its limit when a slightly larger one would have lowered the averaged error by more than its
 * uncertainty, falls by an eighth when the present one raises it. Not thread-safe.
 */
class Corrector {
public:
    /** `config` must pass check_corrector. */
    explicit Corrector(const CorrectorConfig& config);

    double gate() const { return gate_; }
    /** out[n][d_out] += gate·M(q[n][d]). With gate 0 nothing is written. */
    void correct(const float* q, size_t n, float* out);
    /** One pair: the residual r [d_out] of query q [d], how much it matters, and the number of tokens since the previous observation. */
    void observe(const float* q, const float* residual, float weight, double tokens);
    void reset();

    CorrectorStats stats() const;
    size_t bytes() const;

private:
    void predict(const float* q, size_t n);
    void learn(const float* q, const float* target, float weight);
    void move_gate();

    CorrectorConfig config_;
    std::unique_ptr<FeatureMap> map_;  // of least squares
    std::unique_ptr<RecursiveLeastSquares> solver_;
    std::unique_ptr<TestTimeMemory> memory_;  // of the Omega rule
    std::vector<float> weights_, mapped_;     // W of the solver in f32, [features][d_out]
    std::vector<double> x_, v_;
    uint64_t learned_ = 0;
    std::vector<float> prediction_, target_;
    double gate_ = 0.0;
    double tokens_ = 0.0;
    double scale_square_ = 0.0;  // averaged ‖r‖²: targets are learned at length 1
    double scale_ = 0.0;         // of the predictions in use
    // Exponential averages of w‖r‖², w r·M, w‖M‖² and of the square of the gain w(2 r·M − …), which bounds its uncertainty.
    double weight_ = 0.0, rr_ = 0.0, rm_ = 0.0, mm_ = 0.0, rm_square_ = 0.0;
    uint64_t observations_ = 0;
};

}  // namespace atlas::memory
