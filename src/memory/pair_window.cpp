#include "memory/pair_window.h"

#include <algorithm>

namespace atlas::memory {

PairWindow::PairWindow(size_t capacity, size_t d_in, size_t d_out)
    : capacity_(capacity), d_in_(d_in), d_out_(d_out), x_(capacity * d_in), v_(capacity * d_out), weight_(capacity) {}

void PairWindow::push(const float* x, const float* v, const float* weights, size_t n) {
    for (size_t i = n > capacity_ ? n - capacity_ : 0; i < n; ++i) {
        std::copy_n(x + i * d_in_, d_in_, x_.data() + next_ * d_in_);
        std::copy_n(v + i * d_out_, d_out_, v_.data() + next_ * d_out_);
        weight_[next_] = weights ? weights[i] : 1.0f;
        next_ = (next_ + 1) % capacity_;
        size_ = std::min(size_ + 1, capacity_);
    }
}

void PairWindow::copy(float* x, float* v, float* weights) const {
    for (size_t i = 0; i < size_; ++i) {
        const size_t row = (next_ + capacity_ - size_ + i) % capacity_;
        std::copy_n(x_.data() + row * d_in_, d_in_, x + i * d_in_);
        std::copy_n(v_.data() + row * d_out_, d_out_, v + i * d_out_);
        weights[i] = weight_[row];
    }
}

}  // namespace atlas::memory
