#include "memory/reference/muon.h"

#include <algorithm>
#include <cmath>

namespace atlas::memory::reference {
namespace {

std::vector<double> transpose(size_t rows, size_t cols, const std::vector<double>& a) {
    std::vector<double> t(a.size());
    for (size_t i = 0; i < rows; ++i) {
        for (size_t j = 0; j < cols; ++j) t[j * rows + i] = a[i * cols + j];
    }
    return t;
}

std::vector<double> product(size_t m, size_t n, size_t k, const std::vector<double>& a, const std::vector<double>& b) {
    std::vector<double> c(m * n, 0.0);
    for (size_t i = 0; i < m; ++i) {
        for (size_t l = 0; l < k; ++l) {
            for (size_t j = 0; j < n; ++j) c[i * n + j] += a[i * k + l] * b[l * n + j];
        }
    }
    return c;
}

}  // namespace

std::vector<double> muon_step(NewtonSchulz kind, size_t rows, size_t cols, const std::vector<double>& s) {
    if (kind == NewtonSchulz::kNone) return s;
    std::vector<double> x = rows > cols ? transpose(rows, cols, s) : s;
    const size_t m = std::min(rows, cols);
    const size_t n = std::max(rows, cols);
    double norm = 0.0;
    for (const double value : x) norm += value * value;
    for (double& value : x) value /= std::sqrt(norm) + 1e-7;
    for (const auto& [a, b, c] : newton_schulz_steps(kind)) {
        const std::vector<double> gram = product(m, m, n, x, transpose(m, n, x));
        const std::vector<double> first = product(m, n, m, gram, x);
        const std::vector<double> second = product(m, n, m, gram, first);
        for (size_t i = 0; i < x.size(); ++i) x[i] = a * x[i] + b * first[i] + c * second[i];
    }
    const double scale = std::sqrt(std::max(1.0, static_cast<double>(rows) / static_cast<double>(cols)));
    for (double& value : x) value *= scale;
    return rows > cols ? transpose(m, n, x) : x;
}

}  // namespace atlas::memory::reference
