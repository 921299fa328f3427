#pragma once

#include <array>
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
    uint64_t observations = 0;     ///< finite ones
    uint64_t learned = 0;          ///< pairs
    uint64_t skipped_pairs = 0;    ///< left out because something was not finite
    uint64_t skipped_updates = 0;  ///< undone because the result would not have been finite
    uint64_t muon_steps = 0;       ///< matrices orthogonalised
    CacheStats cache;              ///< of mapped features
    double window_fill =
        0.0;  ///< of the Omega rule's window; least squares, whose window has no end: 1 once it has learned
    double error_without = 0.0;  ///< weighted mean of ‖r‖², exponentially averaged
    double error_with = 0.0;     ///< the same of ‖r − M(q)‖² (gate 1), each taken before its pair was learned
    double gate = 0.0;
};

/** What a corrector has learned, as flat numbers: a head's part of a side-car file. */
struct CorrectorState {
    /** Least squares: W [d_out][features]. Omega rule: parameters in the order of parameter_tensors(). */
    std::vector<float> weights;
    /** Least squares: P [features][features]. Omega rule: momentum, laid out as the weights. Empty: that of a new memory. */
    std::vector<float> momentum;
    /** Of polynomial and exponential features, one per degree from 0 on. Empty: those of a new memory. */
    std::vector<double> coefficients;
    double scale = 0.0;  ///< length of a residual; W and the parameters predict in units of it
    double gate = 0.0;   ///< where the gate starts, whatever the warm-up
    /**
     * What is known about errors with these weights, so that a few bad observations do not shut the gate: w, w‖r‖², w r·M, w‖M‖² and (w r·M)², each
     * summed over as many observations as it is to count for. All 0: nothing.
     */
    std::array<double, 5> evidence{};
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
    uint64_t observations() const { return observations_; }
    /** out[n][d_out] += gate·M(q[n][d]). With gate 0 nothing is written. Where M(q) is not finite, neither; the result is then false. */
    bool correct(const float* q, size_t n, float* out);
    /** One pair: the residual r [d_out] of query q [d], how much it matters, and the number of tokens since the previous observation. */
    void observe(const float* q, const float* residual, float weight, double tokens);
    /** Keeps what was learned but closes the gate, until held-out errors open it again. */
    void doubt();
    /** Forgets what was learned: back to nothing, or to the state of start_from. */
    void reset();

    /**
     * Makes `state` the start of this and of every later reset. Fails, changing nothing, when its sizes are not those of this configuration or a
     * number is not finite.
     */
    Status start_from(std::shared_ptr<const CorrectorState> state);
    /** What start_from takes. Pairs that wait for a full chunk are learned first. */
    CorrectorState state();

    /** What may change without forgetting anything. A gate above the new limit comes down to it. */
    void set_gate(double limit, bool dynamic, double warm_up);
    void set_learning(bool learn) { config_.learn = learn; }

    CorrectorStats stats() const;
    size_t bytes() const;

private:
    void predict(const float* q, size_t n);
    /** Least squares: the pair of the query in row 0 of mapped_, where predict(q, 1) leaves its features. */
    void learn(const float* q, const float* target, float weight);
    void refresh_weights();
    void move_gate();

    CorrectorConfig config_;
    std::shared_ptr<const CorrectorState> initial_;
    std::unique_ptr<FeatureMap> map_;   // of least squares
    std::vector<double> coefficients_;  // of a new memory's map_
    std::unique_ptr<RecursiveLeastSquares> solver_;
    std::unique_ptr<TestTimeMemory> memory_;  // of the Omega rule
    std::vector<float> weights_, mapped_;     // W of the solver in f32, [features][d_out]
    std::vector<double> x_, v_;
    uint64_t learned_ = 0;
    std::vector<float> prediction_, target_;
    double gate_ = 0.0;
    double trusted_ = 0.0;  // gate before a doubt: where it goes at once when held-out errors allow it
    double tokens_ = 0.0;
    double scale_square_ = 0.0;  // averaged ‖r‖²: targets are learned at length 1
    double scale_ = 0.0;         // of the predictions in use
    // Exponential averages of w‖r‖², w r·M, w‖M‖² and of the square of the gain w(2 r·M − …), which bounds its uncertainty.
    double weight_ = 0.0, rr_ = 0.0, rm_ = 0.0, mm_ = 0.0, rm_square_ = 0.0;
    uint64_t observations_ = 0;
    uint64_t skipped_ = 0;
};

}  // namespace atlas::memory
