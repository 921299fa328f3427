#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/cuda/device.h"

// What all measurements on a device share.

namespace atlas::kernels::cuda {

inline void need(const Status& status) {
    if (status.is_ok()) return;
    std::fprintf(stderr, "%s\n", status.to_string().c_str());
    std::exit(2);
}

template <class T>
Buffer upload(Device& device, const std::vector<T>& values) {
    Buffer buffer;
    need(device.allocate(values.size() * sizeof(T), &buffer));
    need(device.upload(buffer, values.data(), values.size() * sizeof(T)));
    need(device.wait());
    return buffer;
}

/** Microseconds of each of some launches, sorted. */
template <class Launch>
std::vector<double> times_of(Device& device, int repetitions, Launch launch) {
    // So many per measurement that the wait at its end is little of it.
    constexpr int kLaunches = 10;
    std::vector<double> times;
    for (int i = 0; i <= repetitions; ++i) {
        const auto start = std::chrono::steady_clock::now();
        for (int j = 0; j < kLaunches; ++j) launch();
        need(device.wait());
        const std::chrono::duration<double, std::micro> taken = std::chrono::steady_clock::now() - start;
        if (i > 0) times.push_back(taken.count() / kLaunches);  // the first loads the code
    }
    std::sort(times.begin(), times.end());
    return times;
}

inline bool all_finite(const std::vector<float>& values) {
    return std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
}

/** A line of JSON: bytes and products that it must take, the median and the range of its time. */
inline void print(const char* name, const char* kernel, int launches, double bytes, double flops,
                  const std::vector<double>& times, bool finite) {
    std::printf(
        "{\"shape\": \"%s\", \"kernel\": \"%s\", \"launches\": %d, \"bytes\": %.0f, \"flops\": %.0f, \"us\": %.2f, "
        "\"least_us\": %.2f, \"most_us\": %.2f, \"finite\": %s}\n",
        name, kernel, launches, bytes, flops, times[times.size() / 2], times.front(), times.back(),
        finite ? "true" : "false");
    std::fflush(stdout);
}

}  // namespace atlas::kernels::cuda
