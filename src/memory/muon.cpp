#include "memory/muon.h"

#include <algorithm>
#include <cmath>

#include "kernels/elementwise.h"
#include "kernels/matmul.h"

namespace atlas::memory {

std::span<const std::array<double, 3>> newton_schulz_steps(NewtonSchulz kind) {
    using Step = std::array<double, 3>;
    static constexpr Step kUsual{3.4445, -4.7750, 2.0315};
    static constexpr std::array<Step, 5> kStandard{kUsual, kUsual, kUsual, kUsual, kUsual};
    static constexpr std::array<Step, 6> kPolar{Step{8.2872, -23.5959, 17.3004}, Step{4.1071, -2.9478, 0.5448},
                                                Step{3.9487, -2.9089, 0.5518},   Step{3.3184, -2.4885, 0.5100},
                                                Step{2.3007, -1.6689, 0.4188},   Step{1.8914, -1.2680, 0.3768}};
    switch (kind) {
        case NewtonSchulz::kStandard:
            return kStandard;
        case NewtonSchulz::kPolarExpress:
            return kPolar;
        case NewtonSchulz::kNone:
            break;
    }
    return {};
}

void muon_step(NewtonSchulz kind, size_t rows, size_t cols, const float* s, float* out, MuonWorkspace* work,
               int iterations, bool bf16) {
    const auto steps = newton_schulz_steps(kind);
    const size_t size = rows * cols;
    if (steps.empty()) {
        if (out != s) std::copy_n(s, size, out);
        return;
    }
    // The Gram matrix of the short side; a tall matrix is worked on as its transpose.
    const bool tall = rows > cols;
    const size_t m = tall ? cols : rows;
    const size_t n = tall ? rows : cols;
    work->x.resize(size);
    work->next.resize(size);
    work->gram.resize(m * m);
    work->polynomial.resize(m * m);
    const auto inverse = static_cast<float>(1.0 / (std::sqrt(kernels::square_sum(s, size)) + 1e-7));
    for (size_t i = 0; tall && i < m; ++i) {
        for (size_t j = 0; j < n; ++j) work->x[i * n + j] = inverse * s[j * cols + i];
    }
    if (!tall) kernels::scaled_copy(inverse, s, size, work->x.data());
    const auto product = [&](const kernels::GemmArgs& args) {
        if (bf16 && kind == NewtonSchulz::kStandard) {
            kernels::gemm_bf16(args, &work->bf16);
        } else {
            kernels::gemm(args);
        }
    };
    const size_t count = iterations > 0 ? static_cast<size_t>(iterations) : steps.size();
    for (size_t step = 0; step < count; ++step) {
        const auto& [a, b, c] = steps[std::min(step, steps.size() - 1)];
        float* x = work->x.data();
        float* gram = work->gram.data();
        const kernels::MatrixView x_view{x, n};
        const kernels::MatrixView gram_view{gram, m};
        product({.m = m, .n = m, .k = n, .a = x_view, .b = x_view.transposed(), .c = gram, .c_stride = m});
        // b·A + c·A², then a on the diagonal: X ← (aI + bA + cA²)X with one product less.
        std::copy_n(gram, m * m, work->polynomial.data());
        float* polynomial = work->polynomial.data();
        product({.m = m,
                 .n = m,
                 .k = m,
                 .a = gram_view,
                 .b = gram_view,
                 .c = polynomial,
                 .c_stride = m,
                 .alpha = static_cast<float>(c),
                 .beta = static_cast<float>(b)});
        for (size_t i = 0; i < m; ++i) work->polynomial[i * m + i] += static_cast<float>(a);
        product({.m = m, .n = n, .k = m, .a = {polynomial, m}, .b = x_view, .c = work->next.data(), .c_stride = n});
        work->x.swap(work->next);
    }
    const float scale = std::sqrt(std::max(1.0f, static_cast<float>(rows) / static_cast<float>(cols)));
    for (size_t i = 0; tall && i < m; ++i) {
        for (size_t j = 0; j < n; ++j) out[j * cols + i] = scale * work->x[i * n + j];
    }
    if (!tall) kernels::scaled_copy(scale, work->x.data(), size, out);
}

}  // namespace atlas::memory
