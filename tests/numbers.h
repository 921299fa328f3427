#pragma once

#include <cmath>
#include <random>
#include <vector>

namespace atlas::memory {

/** Normal numbers from a seed. */
class Numbers {
public:
    explicit Numbers(uint64_t seed) : random_(seed) {}

    std::vector<float> normal(size_t n, double size = 1.0) {
        std::normal_distribution<double> distribution(0.0, size);
        std::vector<float> values(n);
        for (float& x : values) x = static_cast<float>(distribution(random_));
        return values;
    }
    /** One of the sizes from low to high. */
    size_t size(size_t low, size_t high) { return std::uniform_int_distribution<size_t>(low, high)(random_); }

private:
    std::mt19937_64 random_;
};

inline std::vector<double> widen(const std::vector<float>& values) { return {values.begin(), values.end()}; }

/** ‖a − b‖ / ‖b‖. */
template <class A, class B>
double relative_error(const A& a, const B& b) {
    double error = 0.0;
    double size = 0.0;
    for (size_t i = 0; i < b.size(); ++i) {
        const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
        error += difference * difference;
        size += static_cast<double>(b[i]) * static_cast<double>(b[i]);
    }
    return size > 0.0 ? std::sqrt(error / size) : std::sqrt(error);
}

}  // namespace atlas::memory
