#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace atlas::kernels {

/** A key that orders like the value: larger for larger values, −inf included; never 0. */
inline uint32_t order_key(float value) {
    const auto bits = std::bit_cast<uint32_t>(value);
    return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

/** The count-th largest of n keys, 1 ≤ count ≤ n: at least `count` are ≥ it, fewer are greater. Thread-safe. */
uint32_t nth_largest(const uint32_t* keys, size_t n, size_t count);

}  // namespace atlas::kernels
