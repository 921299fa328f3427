#include "memory/closed_form.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace atlas::memory {
bool cholesky(std::vector<double>* a, size_t n) {
    std::vector<double>& l = *a;
    for (size_t r = 0; r < n; ++r) {
        for (size_t c = 0; c <= r; ++c) {
            double sum = l[r * n + c];
            for (size_t k = 0; k < c; ++k) sum -= l[r * n + k] * l[c * n + k];
            if (r != c) {
                l[r * n + c] = sum / l[c * n + c];
            } else if (sum > 0.0) {
                l[r * n + r] = std::sqrt(sum);
            } else {
                return false;
            }
        }
    }
    return true;
}

bool invert_symmetric(std::vector<double>* a, size_t n) {
    if (!cholesky(a, n)) return false;
    std::vector<double>& l = *a;
    // L⁻¹, then A⁻¹ = L⁻ᵀ L⁻¹.
    std::vector<double> inverse(n * n, 0.0);
    for (size_t c = 0; c < n; ++c) {
        inverse[c * n + c] = 1.0 / l[c * n + c];
        for (size_t r = c + 1; r < n; ++r) {
            double sum = 0.0;
            for (size_t k = c; k < r; ++k) sum -= l[r * n + k] * inverse[k * n + c];
            inverse[r * n + c] = sum / l[r * n + r];
        }
    }
    for (size_t r = 0; r < n; ++r) {
        for (size_t c = 0; c <= r; ++c) {
            double sum = 0.0;
            for (size_t k = r; k < n; ++k) sum += inverse[k * n + r] * inverse[k * n + c];
            l[r * n + c] = l[c * n + r] = sum;
        }
    }
    return true;
}

Status ridge(const std::vector<double>& x, const std::vector<double>& v, size_t n, size_t d_in, size_t d_out,
             double lambda, std::vector<double>* w) {
    // Normal equations G Wᵀ = B, G = Σxxᵀ + λI (lower half), solved by Cholesky's L Lᵀ.
    std::vector<double> l(d_in * d_in, 0.0);
    std::vector<double> b(d_in * d_out, 0.0);
    for (size_t i = 0; i < n; ++i) {
        const double* row = x.data() + i * d_in;
        for (size_t r = 0; r < d_in; ++r) {
            for (size_t c = 0; c <= r; ++c) l[r * d_in + c] += row[r] * row[c];
            for (size_t o = 0; o < d_out; ++o) b[r * d_out + o] += row[r] * v[i * d_out + o];
        }
    }
    for (size_t r = 0; r < d_in; ++r) l[r * d_in + r] += lambda;
    if (!cholesky(&l, d_in)) {
        return Status::invalid_argument("ridge over " + std::to_string(n) + " pairs of " + std::to_string(d_in) +
                                        " features is singular with lambda " + std::to_string(lambda));
    }
    for (size_t r = 0; r < d_in; ++r) {
        for (size_t o = 0; o < d_out; ++o) {
            double sum = b[r * d_out + o];
            for (size_t k = 0; k < r; ++k) sum -= l[r * d_in + k] * b[k * d_out + o];
            b[r * d_out + o] = sum / l[r * d_in + r];
        }
    }
    w->assign(d_out * d_in, 0.0);
    for (size_t r = d_in; r-- > 0;) {
        for (size_t o = 0; o < d_out; ++o) {
            double sum = b[r * d_out + o];
            for (size_t k = r + 1; k < d_in; ++k) sum -= l[k * d_in + r] * (*w)[o * d_in + k];
            (*w)[o * d_in + r] = sum / l[r * d_in + r];
        }
    }
    return Status::ok();
}

std::vector<double> hebbian(const std::vector<double>& x, const std::vector<double>& v, size_t n, size_t d_in,
                            size_t d_out) {
    std::vector<double> w(d_out * d_in, 0.0);
    for (size_t i = 0; i < n; ++i) {
        for (size_t o = 0; o < d_out; ++o) {
            for (size_t j = 0; j < d_in; ++j) w[o * d_in + j] += v[i * d_out + o] * x[i * d_in + j];
        }
    }
    return w;
}

RecursiveLeastSquares::RecursiveLeastSquares(size_t d_in, size_t d_out, double lambda, double forgetting, bool bounded)
    : d_in_(d_in),
      d_out_(d_out),
      forgetting_(forgetting),
      trace_limit_(bounded ? static_cast<double>(d_in) / lambda : HUGE_VAL),
      w_(d_out * d_in, 0.0),
      p_(d_in * d_in, 0.0),
      px_(d_in) {
    for (size_t i = 0; i < d_in; ++i) p_[i * d_in + i] = 1.0 / lambda;
}

void RecursiveLeastSquares::learn(const double* x, const double* v) {
    double trace = 0.0;
    for (size_t i = 0; i < d_in_; ++i) trace += p_[i * d_in_ + i];
    const double f = trace / forgetting_ < trace_limit_ ? forgetting_ : 1.0;
    // Sherman–Morrison: P ← (P − P x xᵀP / (f + xᵀP x)) / f, W ← W + (v − W x)(P x)ᵀ/(f + xᵀP x).
    double denominator = f;
    for (size_t i = 0; i < d_in_; ++i) {
        px_[i] = 0.0;
        for (size_t j = 0; j < d_in_; ++j) px_[i] += p_[i * d_in_ + j] * x[j];
        denominator += px_[i] * x[i];
    }
    for (size_t o = 0; o < d_out_; ++o) {
        double error = v[o];
        for (size_t j = 0; j < d_in_; ++j) error -= w_[o * d_in_ + j] * x[j];
        for (size_t j = 0; j < d_in_; ++j) w_[o * d_in_ + j] += error * px_[j] / denominator;
    }
    for (size_t i = 0; i < d_in_; ++i) {
        for (size_t j = 0; j < d_in_; ++j) p_[i * d_in_ + j] = (p_[i * d_in_ + j] - px_[i] * px_[j] / denominator) / f;
    }
}

void RecursiveLeastSquares::set_state(const float* weights, const float* covariance) {
    std::copy_n(weights, w_.size(), w_.begin());
    if (covariance) std::copy_n(covariance, p_.size(), p_.begin());
}

DeltaRule::DeltaRule(size_t d_in, size_t d_out, double step)
    : d_in_(d_in), d_out_(d_out), step_(step), w_(d_out * d_in, 0.0) {}

void DeltaRule::learn(const double* x, const double* v) {
    double square = 0.0;
    for (size_t j = 0; j < d_in_; ++j) square += x[j] * x[j];
    if (!(square > 0.0)) return;
    for (size_t o = 0; o < d_out_; ++o) {
        double error = v[o];
        for (size_t j = 0; j < d_in_; ++j) error -= w_[o * d_in_ + j] * x[j];
        for (size_t j = 0; j < d_in_; ++j) w_[o * d_in_ + j] += step_ * error * x[j] / square;
    }
}

}  // namespace atlas::memory
