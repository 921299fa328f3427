#include "machine_limits.h"

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace {

// As wide as -march=native allows; the compiler splits it where registers are narrower.
#if defined(__AVX512F__)
constexpr int kBytes = 64;
constexpr int kAccumulators = 24;
#elif defined(__AVX__)
constexpr int kBytes = 32;
constexpr int kAccumulators = 12;
#else
constexpr int kBytes = 16;
constexpr int kAccumulators = 24;
#endif
typedef float Vector __attribute__((vector_size(kBytes)));
typedef uint64_t Words __attribute__((vector_size(kBytes)));

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

volatile float g_sink;

}  // namespace

double read_bandwidth(int threads) {
    constexpr size_t kWords = (size_t{512} << 20) / sizeof(Words);
    std::vector<Words> buffer(kWords);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (size_t i = 0; i < kWords; ++i) buffer[i] = Words{} + i;
    double best = 0;
    for (int attempt = 0; attempt < 6; ++attempt) {
        uint64_t total = 0;
        const auto start = std::chrono::steady_clock::now();
#pragma omp parallel num_threads(threads) reduction(+ : total)
        {
            Words sum[8] = {};
#pragma omp for schedule(static)
            for (size_t i = 0; i < kWords; i += 8) {
                for (size_t k = 0; k < 8; ++k) sum[k] ^= buffer[i + k];
            }
            for (size_t k = 1; k < 8; ++k) sum[0] ^= sum[k];
            total += sum[0][0] & 1;
        }
        best = std::max(best, static_cast<double>(kWords * sizeof(Words)) / seconds_since(start));
        g_sink = static_cast<float>(total);
    }
    return best;
}

double f32_peak(int threads) {
    constexpr int64_t kRounds = 8 << 20;
    double best = 0;
    for (int attempt = 0; attempt < 5; ++attempt) {
        float total = 0;
        const auto start = std::chrono::steady_clock::now();
#pragma omp parallel num_threads(threads) reduction(+ : total)
        {
            Vector sum[kAccumulators];
            for (int k = 0; k < kAccumulators; ++k) sum[k] = Vector{} + static_cast<float>(k);
            Vector a = Vector{} + 0.999f;
            Vector b = Vector{} + 0.001f;
            __asm__ volatile("" : "+x"(a), "+x"(b));
            for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 32
                for (int k = 0; k < kAccumulators; ++k) sum[k] = sum[k] * a + b;
            }
            for (int k = 0; k < kAccumulators; ++k) total += sum[k][0];
        }
        const double flops = 2.0 * kRounds * kAccumulators * (kBytes / 4) * threads;
        best = std::max(best, flops / seconds_since(start));
        g_sink = total;
    }
    return best;
}

#if defined(__AVX512VNNI__) && defined(__AVX512BF16__)
namespace {

/** Best of several tries of 64 rounds × kRounds steps of 24 independent chains, `operations` each. */
template <class Register, class Step>
double peak(int threads, double operations, Step step) {
    constexpr int64_t kRounds = 4 << 20;
    double best = 0;
    for (int attempt = 0; attempt < 5; ++attempt) {
        float total = 0;
        const auto start = std::chrono::steady_clock::now();
#pragma omp parallel num_threads(threads) reduction(+ : total)
        {
            Register sum[24];
            for (int k = 0; k < 24; ++k)
                sum[k] = Register{} + static_cast<decltype(Register{}[0] + 0)>(k);  // all different: none is left out
            __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(2);
            for (int64_t i = 0; i < kRounds; ++i) {
                __asm__ volatile("" : "+v"(a), "+v"(b));
#pragma GCC unroll 32
                for (int k = 0; k < 24; ++k) sum[k] = step(sum[k], a, b);
            }
            for (int k = 0; k < 24; ++k) total += static_cast<float>(sum[k][0]);
        }
        best = std::max(best, operations * 24 * kRounds * threads / seconds_since(start));
        g_sink = total;
    }
    return best;
}

double tile_peak([[maybe_unused]] int threads) {
#if defined(__AMX_INT8__)
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) return 0;
    constexpr int64_t kRounds = 1 << 20;
    double best = 0;
    for (int attempt = 0; attempt < 5; ++attempt) {
        const auto start = std::chrono::steady_clock::now();
#pragma omp parallel num_threads(threads)
        {
            alignas(64) uint8_t shapes[64] = {1}, before[64];
            for (int tile = 0; tile < 8; ++tile) {
                shapes[16 + 2 * tile] = 64;
                shapes[48 + tile] = 16;
            }
            _tile_storeconfig(before);
            _tile_loadconfig(shapes);
            for (int64_t i = 0; i < kRounds; ++i) {
                _tile_dpbssd(0, 4, 6);
                _tile_dpbssd(1, 4, 7);
                _tile_dpbssd(2, 5, 6);
                _tile_dpbssd(3, 5, 7);
            }
            _tile_loadconfig(before);
        }
        best = std::max(best, 2.0 * 16 * 16 * 64 * 4 * kRounds * threads / seconds_since(start));
    }
    return best;
#else
    return 0;
#endif
}

}  // namespace

MatrixPeaks matrix_peaks(int threads) {
    const auto int8 = [](__m512i sum, __m512i a, __m512i b) { return _mm512_dpbusd_epi32(sum, a, b); };
    const auto bf16 = [](__m512 sum, __m512i a, __m512i b) {
        return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
    };
    return {peak<__m512i>(threads, 128, int8), peak<__m512>(threads, 64, bf16), tile_peak(threads)};
}
#else
MatrixPeaks matrix_peaks(int) { return {}; }
#endif
