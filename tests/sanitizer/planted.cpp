// Faults planted on purpose, in a library that is built as the plug-in is: each must be reported, or a clean sanitizer run means nothing.
#include <cstddef>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kThreads = 2;
constexpr int kCount = 1 << 16;

int g_sum = 0;

// Left to AddressSanitizer alone: where the compiler inlines this, UndefinedBehaviorSanitizer knows the size of the object and speaks first.
__attribute__((noinline, no_sanitize("undefined"))) int read_beyond(const int* values, size_t at) { return values[at]; }

}  // namespace

extern "C" {

/** Two threads of one team write the same number without order between them. */
__attribute__((visibility("default"))) int planted_race(void) {
#pragma omp parallel num_threads(kThreads)
    for (int i = 0; i < kCount; ++i) g_sum += i;
    return g_sum;
}

/** As planted_race, the threads being the host's (see host.cpp): they call this at the same time. */
__attribute__((visibility("default"))) int planted_race_step(void) { return ++g_sum; }

/** The same number written by both threads, one behind a barrier of the other, then by the caller behind the end of the team: no fault. */
__attribute__((visibility("default"))) int planted_order(void) {
    for (int round = 0; round < 50; ++round) {
#pragma omp parallel num_threads(kThreads)
        {
#pragma omp single
            for (int i = 0; i < kCount; ++i) g_sum ^= i;
#pragma omp critical
            ++g_sum;
#pragma omp barrier
#pragma omp single
            g_sum = 0;
        }
        ++g_sum;
    }
    return g_sum;
}

__attribute__((visibility("default"))) int planted_overflow(void) {
    auto* values = static_cast<int*>(std::malloc(4 * sizeof(int)));
    if (!values) return 0;
    std::memset(values, 1, 4 * sizeof(int));
    volatile size_t beyond = 4;  // so that the compiler does not see it
    const int value = read_beyond(values, beyond);
    std::free(values);
    return value;
}

__attribute__((visibility("default"))) int planted_undefined(void) {
    volatile int large = 0x7FFFFFFF;
    return large + 1;
}
}
