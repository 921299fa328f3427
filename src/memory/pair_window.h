#pragma once

#include <cstddef>
#include <vector>

namespace atlas::memory {

/** Ring buffer of the most recent (input, target, weight) triples: what a sliding context window remembers of past chunks. */
class PairWindow {
public:
    PairWindow(size_t capacity, size_t d_in, size_t d_out);

    size_t size() const { return size_; }
    size_t capacity() const { return capacity_; }
    double fill_ratio() const { return capacity_ ? static_cast<double>(size_) / static_cast<double>(capacity_) : 1.0; }
    size_t bytes() const { return (x_.size() + v_.size() + weight_.size()) * sizeof(float); }

    /** Appends n pairs (weights null: all 1); of more than `capacity` only the last ones stay. */
    void push(const float* x, const float* v, const float* weights, size_t n);
    /** All pairs, oldest first: x [size()][d_in], v [size()][d_out], weights [size()]. */
    void copy(float* x, float* v, float* weights) const;
    void clear() { size_ = next_ = 0; }

private:
    size_t capacity_, d_in_, d_out_;
    size_t size_ = 0;
    size_t next_ = 0;  // row that the next pair goes to
    std::vector<float> x_, v_, weight_;
};

}  // namespace atlas::memory
