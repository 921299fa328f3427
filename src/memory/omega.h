#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "memory/deep_memory.h"
#include "memory/muon.h"
#include "memory/pair_window.h"

namespace atlas::memory {

/**
 * The Omega rule (arXiv 2505.23735, 9, 32, 33; signs as in docs/design/memory.md). Token t of a chunk, gradients taken at the memory A that the chunk
 * started from:
 *     S_t = θ S_{t−1} + Σ_{i = t−c+1 … t} γ^{t−i} w_i ∇‖A(x_i) − v_i‖²
 *     M_t = α M_{t−1} − η S_t            (NewtonSchulz::kNone, or with Muon per token: − η NS(S_t))
 * With Muon per chunk, M only decays inside the chunk and −η NS(S) is applied to the last S.
 */
struct OmegaConfig {
    int window = 16;         ///< c ≥ 1: pairs each token's loss looks back at; 1 is the delta rule
    double decay = 1.0;      ///< γ in [0, 1]: weight of a pair one step older
    double momentum = 0.9;   ///< θ in [0, 1)
    double retention = 1.0;  ///< α in [0, 1] per token
    double step = 0.01;      ///< η
    NewtonSchulz orthogonalize = NewtonSchulz::kNone;
    bool per_token = false;  ///< Muon at every token instead of once per chunk
    int iterations = 0;      ///< of Newton–Schulz; 0: the kind's own number
    bool bf16 = false;       ///< factors of Newton–Schulz' products; parameters, momentum and gradients stay f32

    bool operator==(const OmegaConfig&) const = default;
};

Status check_omega(const OmegaConfig& config);

/**
 * The whole chunk as one weighting of its gradients g_i: S_end = θⁿ S_0 + Σ ω_i g_i and, without Muon,
 * M_end = αⁿ M_0 − memory_of_momentum·S_0 − Σ step_i g_i. Index 0 is the oldest of the `before` pairs kept from earlier chunks.
 */
struct ChunkWeights {
    std::vector<float> omega, step;
    double momentum_kept = 1.0;       ///< θⁿ
    double memory_kept = 1.0;         ///< αⁿ
    double memory_of_momentum = 0.0;  ///< η Σ_t α^{n−t} θ^t
};

/** gates [before + n]: w_i. */
ChunkWeights chunk_weights(const OmegaConfig& config, size_t before, size_t n, std::span<const float> gates);

struct OmegaStats {
    uint64_t pairs = 0;            ///< pairs learned from
    uint64_t skipped_pairs = 0;    ///< pairs left out because x, v or their weight was not finite
    uint64_t skipped_updates = 0;  ///< chunks undone because the result would not have been finite
    uint64_t muon_steps = 0;       ///< matrices orthogonalised
    double loss = 0.0;             ///< last chunk: mean over its finite pairs of ‖M(x) − v‖² before learning from them
};

/** Parameters, momentum and window of one memory, and the rule that changes them. Not thread-safe; one per head. */
class OmegaLearner {
public:
    /** Shape and config must have passed their checks. */
    OmegaLearner(const MemoryShape& shape, const OmegaConfig& config, uint64_t seed);

    const MemoryShape& shape() const { return shape_; }
    const OmegaConfig& config() const { return config_; }
    std::span<const float> parameters() const { return parameters_; }
    std::span<const float> momentum() const { return momentum_; }
    const PairWindow& window() const { return window_; }
    const OmegaStats& stats() const { return stats_; }
    /** Workspace included, which comes with the first chunk. */
    size_t bytes() const;

    void set_parameters(std::span<const float> parameters);
    void set_momentum(std::span<const float> momentum);
    void set_step(double step) { config_.step = step; }

    /** y[n][d_out] = M(x[n][d_in]). */
    void read(const float* x, size_t n, float* y);

    /**
     * Learns from n pairs as one chunk; weights (w_i, null: 1). A pair that is not finite is left out and counted, an update whose result would not
     * be finite is undone and counted; either is logged as a warning the first time. ∂ℓ/∂x of the chunk's own pairs goes to x_gradient [n][d_in] if
     * that is not null, for learnable feature maps.
     */
    void learn(const float* x, const float* v, const float* weights, size_t n, float* x_gradient = nullptr);

    /** Back to the start: parameters, momentum, window and statistics. */
    void reset();

    /** Appends the state; `restore` of the same shape and config continues bit for bit. Format: docs/design/memory.md. */
    void save(std::vector<std::byte>* out) const;
    /** Replaces the state, or leaves it as it was and says why. `data` must be exactly one saved state. */
    Status restore(std::span<const std::byte> data);

private:
    void apply_per_token(size_t before, size_t n);
    bool commit();
    void warn_once(const char* what);

    MemoryShape shape_;
    OmegaConfig config_;
    uint64_t seed_;
    std::vector<ParameterTensor> tensors_;
    std::vector<float> parameters_, momentum_;
    PairWindow window_;
    OmegaStats stats_;
    bool warned_ = false;
    // Workspace
    MemoryWorkspace work_;
    MuonWorkspace muon_;
    std::vector<float> x_, v_, gates_, gradient_, step_gradient_, next_parameters_, next_momentum_, update_;
};

}  // namespace atlas::memory
