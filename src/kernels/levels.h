#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace atlas::kernels {

/** Levels of iq4_nl and iq4_xs. */
alignas(16) inline constexpr int8_t kLevelsIQ4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                      1,    13,   25,  38,  53,  69,  89,  113};
/** Twice the numbers of FP4 (E2M1). */
alignas(16) inline constexpr int8_t kLevelsFP4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/** Levels with `bias` added, which makes them bytes without a sign. */
constexpr std::array<uint8_t, 16> biased_levels(const int8_t (&levels)[16], int bias) {
    std::array<uint8_t, 16> biased{};
    for (size_t i = 0; i < biased.size(); ++i) biased[i] = static_cast<uint8_t>(levels[i] + bias);
    return biased;
}

}  // namespace atlas::kernels
