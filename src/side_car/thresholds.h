#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace atlas::side_car {

/** Shares of the inputs, percent, for which thresholds are calibrated. Between them a share's threshold is theirs, interpolated. */
inline constexpr std::array<int, 7> kShares = {10, 25, 40, 50, 60, 70, 80};

/**
 * Below which magnitude an input of a product for a single token is left out (TEAL, arXiv 2408.14690), per matrix of weights, so that of all that these matrices
 * have in bytes a given share is not read.
 */
struct Thresholds {
    struct Weight {
        int64_t inputs = 0;
        int64_t outputs = 0;
        std::array<float, kShares.size()> at{};  ///< ascending, 0 or more
        bool operator==(const Weight&) const = default;
    };
    std::map<std::string, Weight, std::less<>> weights;  ///< by the names of the model's tensors

    bool empty() const { return weights.empty(); }
    /** 0: all inputs are read, as also where the matrix is not known, or has another shape. 0 ≤ share ≤ 1; beyond the last of kShares it is that one. */
    float of(std::string_view name, int64_t inputs, int64_t outputs, double share) const;
};

/** Whether inputs of the matrix may be left out: projections of attention and of feed-forward parts, by llama.cpp's names. */
bool has_sparse_inputs(std::string_view name);

}  // namespace atlas::side_car
