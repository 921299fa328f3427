#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

namespace atlas::runtime {

/**
 * Ratios of pairs of times, of which the weighted median is wanted: a pair of which one half met an interrupt, or cold memory, then counts no more than any other. Ratios
 * from 1/16 to 16; what is beyond counts as that. It is found within its bin, 9 % wide, whose mean is given.
 */
class RatioSketch {
public:
    void add(double ratio, double weight) {
        const double log = std::clamp(std::log2(ratio), -kOctaves, kOctaves);
        const auto bin = std::min(static_cast<size_t>((log + kOctaves) * kPerOctave), kBins - 1);
        weights_[bin] += static_cast<float>(weight);
        logs_[bin] += static_cast<float>(weight * log);
    }
    void add(const RatioSketch& other) {
        for (size_t i = 0; i < kBins; ++i) {
            weights_[i] += other.weights_[i];
            logs_[i] += other.logs_[i];
        }
    }
    /** 0 where nothing was added. */
    double median() const {
        double total = 0.0;
        for (const float weight : weights_) total += static_cast<double>(weight);
        double left = total / 2;
        for (size_t i = 0; i < kBins && total > 0.0; ++i) {
            const auto weight = static_cast<double>(weights_[i]);
            if (left <= weight && weight > 0.0) return std::exp2(static_cast<double>(logs_[i]) / weight);
            left -= weight;
        }
        return 0.0;
    }

private:
    static constexpr double kOctaves = 4.0;
    static constexpr double kPerOctave = 8.0;
    static constexpr size_t kBins = 64;

    std::array<float, kBins> weights_{};
    std::array<float, kBins> logs_{};  // weight times the logarithm, base 2
};

}  // namespace atlas::runtime
