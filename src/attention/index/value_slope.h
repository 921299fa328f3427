#pragma once

#include <cstdint>
#include <vector>

namespace atlas::attention {

/**
 * How the mean value of one head's blocks moves with the query. Of a block with weights a_j = e^{t·k_j} / Σ e^{t·k}, the attention output at query q is
 * v̄(q) = Σ_j e^{(q−t)·k_j} a_j v_j / Σ_j e^{(q−t)·k_j} a_j, and ∂v̄/∂q at q = t is Cov_a(k, v). Its average over blocks, weighted by their mass, stands
 * for every block's: what single blocks differ by averages out over a far part, what they have in common (keys that a query looks for have values
 * of their own) does not. Not thread-safe.
 */
class ValueSlope {
public:
    /**
     * Adds one block: keys [n][d_k], values [n][d_v], weights that sum to 1, the weighted mean key, ln Σ e^{t·k}. Blocks that are not finite are left
     * out. Throws std::bad_alloc.
     */
    void add(const float* keys, const float* values, const float* weights, const float* mean, float log_mass, int64_t n,
             int64_t d_k, int64_t d_v);
    /** Lets everything so far count 1 − share. */
    void forget(double share);

    /** Blocks added so far. */
    int64_t blocks() const { return blocks_; }
    uint64_t bytes() const { return sum_.size() * sizeof(float); }
    /** Asks memory for what apply() will read. */
    void fetch() const {
        const auto* bytes = reinterpret_cast<const std::byte*>(sum_.data());
        for (size_t i = 0; i < sum_.size() * sizeof(float); i += 64) __builtin_prefetch(bytes + i, 0, 2);
    }
    /** out[row][d_v] += factor · q[row]ᵀ Cov for `rows` rows q [d_k]; nothing before the first block. `scratch` holds rows · d_k floats. */
    void apply(const float* q, int64_t rows, int64_t d_k, int64_t d_v, const float* factor, float* scratch,
               float* out) const;

private:
    std::vector<float> sum_;  // [d_k][d_v], Σ e^{λ − reference} Cov
    double weight_ = 0.0;     // Σ e^{λ − reference}
    double reference_ = 0.0;
    int64_t blocks_ = 0;
};

}  // namespace atlas::attention
