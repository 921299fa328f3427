#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

// What the benchmarks of kernels share: time, medians, lists of values from the command line, random numbers.

/** Seconds that `f` takes. */
template <class F>
double timed(F f) {
    const auto start = std::chrono::steady_clock::now();
    f();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/** The upper median; 0 of nothing. */
inline double median(std::vector<double> times) {
    std::sort(times.begin(), times.end());
    return times.empty() ? 0 : times[times.size() / 2];
}

/** The items of "a,b,c": texts or whole numbers. */
template <class T>
std::vector<T> list(const char* text) {
    std::vector<T> values;
    std::stringstream stream(text);
    for (std::string item; std::getline(stream, item, ',');) {
        if constexpr (std::is_same_v<T, std::string>) {
            values.push_back(item);
        } else {
            values.push_back(std::strtoll(item.c_str(), nullptr, 10));
        }
    }
    return values;
}

/** Sums of four uniforms, scaled to a variance of 1: near enough to normal, and fast for gigabytes. The same numbers for a seed on every machine. */
inline std::vector<float> fast_normal(size_t n, uint32_t seed) {
    std::minstd_rand rng(seed);
    std::vector<float> values(n);
    for (float& x : values) {
        float sum = 0;
        for (int i = 0; i < 4; ++i) sum += static_cast<float>(rng()) * (1.0f / 2147483648.0f) - 0.5f;
        x = sum * 1.732f;
    }
    return values;
}
