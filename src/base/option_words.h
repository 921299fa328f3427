#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <utility>

#include "base/options.h"

namespace atlas {

/** The words by which variables, side-car files and reports name the values of an option. */
template <typename T, size_t N>
using OptionWords = std::array<std::pair<const char*, T>, N>;

inline constexpr OptionWords<FarEstimate, 4> kFarEstimateWords{{{"drop", FarEstimate::kDrop},
                                                                {"first", FarEstimate::kFirst},
                                                                {"second", FarEstimate::kSecond},
                                                                {"bessel", FarEstimate::kBessel}}};

inline constexpr OptionWords<FarMemoryKind, 4> kFarMemoryKindWords{{{"least_squares", FarMemoryKind::kLeastSquares},
                                                                    {"linear", FarMemoryKind::kLinear},
                                                                    {"deep", FarMemoryKind::kDeep},
                                                                    {"gated", FarMemoryKind::kGated}}};

inline constexpr OptionWords<MemoryFeatures, 5> kMemoryFeatureWords{{{"identity", MemoryFeatures::kIdentity},
                                                                     {"polynomial", MemoryFeatures::kPolynomial},
                                                                     {"exponential", MemoryFeatures::kExponential},
                                                                     {"fourier", MemoryFeatures::kFourier},
                                                                     {"rbf", MemoryFeatures::kRbf}}};

/** Empty if the table lacks the value. */
template <typename T, size_t N>
std::string word_of(const OptionWords<T, N>& words, T value) {
    for (const auto& [word, is] : words) {
        if (is == value) return word;
    }
    return {};
}

}  // namespace atlas
