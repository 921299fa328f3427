#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace atlas::memory {

/** Which odd polynomials X ← aX + b(XXᵀ)X + c(XXᵀ)²X bring the singular values towards 1. */
enum class NewtonSchulz : uint8_t {
    kStandard,      ///< five times (3.4445, −4.7750, 2.0315): singular values end in 0.68–1.20, not at 1
    kPolarExpress,  ///< six steps of 2505.16932's table: 0.99–1.01
    kNone,          ///< no orthogonalisation: plain momentum
};

/** The steps' (a, b, c); empty for kNone. */
std::span<const std::array<double, 3>> newton_schulz_steps(NewtonSchulz kind);

struct MuonWorkspace {
    std::vector<float> x, gram, polynomial, next;
    std::vector<uint32_t> bf16;
};

/**
 * out[rows][cols] = √max(1, rows/cols) · NS(s / (‖s‖_F + 1e-7)). `out` may be `s`. kNone copies. A zero matrix stays zero.
 * `iterations`: 0 for the kind's own number, else as many (the last step repeats). `bf16`, of kStandard: products of the iterations have bf16 factors and f32
 * sums, all else is f32; the result differs from f32's by at most 5 % (Frobenius norm, test). kPolarExpress diverges in bf16 and stays in f32.
 */
void muon_step(NewtonSchulz kind, size_t rows, size_t cols, const float* s, float* out, MuonWorkspace* work,
               int iterations = 0, bool bf16 = false);

}  // namespace atlas::memory
