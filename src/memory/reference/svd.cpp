#include "memory/reference/svd.h"

#include <cmath>

namespace atlas::memory::reference {

Svd svd(size_t rows, size_t cols, const std::vector<double>& a) {
    if (rows < cols) {
        std::vector<double> t(a.size());
        for (size_t i = 0; i < rows; ++i) {
            for (size_t j = 0; j < cols; ++j) t[j * rows + i] = a[i * cols + j];
        }
        Svd swapped = svd(cols, rows, t);
        swapped.u.swap(swapped.v);
        return swapped;
    }
    Svd result{a, std::vector<double>(cols, 0.0), std::vector<double>(cols * cols, 0.0)};
    std::vector<double>& u = result.u;
    std::vector<double>& v = result.v;
    for (size_t i = 0; i < cols; ++i) v[i * cols + i] = 1.0;
    for (int sweep = 0; sweep < 60; ++sweep) {
        double worst = 0.0;
        for (size_t p = 0; p + 1 < cols; ++p) {
            for (size_t q = p + 1; q < cols; ++q) {
                double pp = 0.0, qq = 0.0, pq = 0.0;
                for (size_t i = 0; i < rows; ++i) {
                    pp += u[i * cols + p] * u[i * cols + p];
                    qq += u[i * cols + q] * u[i * cols + q];
                    pq += u[i * cols + p] * u[i * cols + q];
                }
                if (std::fabs(pq) <= 1e-15 * std::sqrt(pp * qq) || pq == 0.0) continue;
                worst = std::fmax(worst, std::fabs(pq) / std::sqrt(pp * qq));
                const double zeta = (qq - pp) / (2.0 * pq);
                const double t = std::copysign(1.0, zeta) / (std::fabs(zeta) + std::sqrt(1.0 + zeta * zeta));
                const double c = 1.0 / std::sqrt(1.0 + t * t);
                const double s = c * t;
                const auto rotate = [&](std::vector<double>& m, size_t height) {
                    for (size_t i = 0; i < height; ++i) {
                        const double x = m[i * cols + p];
                        const double y = m[i * cols + q];
                        m[i * cols + p] = c * x - s * y;
                        m[i * cols + q] = s * x + c * y;
                    }
                };
                rotate(u, rows);
                rotate(v, cols);
            }
        }
        if (worst < 1e-14) break;
    }
    for (size_t j = 0; j < cols; ++j) {
        double square = 0.0;
        for (size_t i = 0; i < rows; ++i) square += u[i * cols + j] * u[i * cols + j];
        result.sigma[j] = std::sqrt(square);
        for (size_t i = 0; i < rows && square > 0.0; ++i) u[i * cols + j] /= result.sigma[j];
    }
    return result;
}

}  // namespace atlas::memory::reference
