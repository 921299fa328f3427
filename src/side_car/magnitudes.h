#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "side_car/thresholds.h"

namespace atlas::side_car {

/** How large the inputs of products with weights are, over a text: what thresholds come from. Thread-safe. */
class Magnitudes {
public:
    /** Inputs of `columns` tokens, [columns][inputs] at x, of which some are looked at. What is not finite does not count. Throws std::bad_alloc. */
    void add(std::string_view name, int64_t inputs, int64_t outputs, const float* x, int64_t columns);

    /** Per matrix, and share of kShares: the magnitude that this share of its inputs lies below. None of a matrix whose inputs were all 0. */
    Thresholds thresholds() const;

private:
    /** By exponent and the first four bits of the fraction: neighbours differ by 6 % at most. */
    static constexpr uint32_t kShift = 19;
    static constexpr size_t kBins = size_t{1} << (31 - kShift);

    struct Inputs {
        int64_t inputs = 0;
        int64_t outputs = 0;
        double count = 0.0;
        std::vector<uint64_t> bins;

        static double edge(size_t bin);
        double mean_square() const;
        /** Share of the inputs below a magnitude; spread evenly within a bin. */
        double below(double magnitude) const;
    };

    mutable std::mutex mutex_;
    std::map<std::string, Inputs, std::less<>> of_;  // guarded by mutex_
};

}  // namespace atlas::side_car
