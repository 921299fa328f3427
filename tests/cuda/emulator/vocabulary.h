#pragma once

// The emulator's side of kernels/cuda/simt.h: the same names with the same meaning, under any C++20 compiler.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "emulator/thread.h"

#define SIMT_SHARED(name) unsigned char* name = ::atlas::simt::shared_memory()
#define threadIdx (::atlas::simt::self->thread)
#define blockIdx (::atlas::simt::self->block)
#define blockDim (::atlas::simt::self->block_size)
#define gridDim (::atlas::simt::self->grid_size)

namespace atlas::simt {

/** Hands out pieces of the dynamic shared memory, each aligned to 16 bytes. */
class Carver {
public:
    explicit Carver(unsigned char* memory) : at_(memory) {}
    template <class T>
    SIMT_QUIET T* take(size_t n, Where where = Where::current()) {
        return static_cast<T*>(carve(&at_, &used_, n * sizeof(T), where));
    }

private:
    unsigned char* at_;
    size_t used_ = 0;
};

// --- numbers ---

SIMT_QUIET inline float bits_to_float(uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}
SIMT_QUIET inline uint32_t float_to_bits(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    return bits;
}

SIMT_QUIET inline float half_to_float(uint16_t half) {
    const uint32_t sign = (half & 0x8000u) << 16;
    const uint32_t exponent = half >> 10 & 31u;
    const uint32_t mantissa = half & 1023u;
    if (exponent == 31) return bits_to_float(sign | 0x7F800000u | mantissa << 13);
    if (exponent != 0) return bits_to_float(sign | (exponent + 112) << 23 | mantissa << 13);
    const float small = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -small : small;
}
/** To the nearest, ties to even. */
SIMT_QUIET inline uint16_t float_to_half(float value) {
    const uint32_t bits = float_to_bits(value);
    const uint32_t sign = bits >> 16 & 0x8000u;
    const uint32_t magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7FFFu);
    if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);
    if (magnitude < 0x38800000u) {  // subnormal: the adder rounds
        return static_cast<uint16_t>(sign | (float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3F000000u));
    }
    return static_cast<uint16_t>(sign | (magnitude - 0x38000000u + 0xFFFu + (magnitude >> 13 & 1u)) >> 13);
}
/** Two f16: the first in the low half. */
SIMT_QUIET inline uint32_t pack_halves(float low, float high) {
    return float_to_half(low) | static_cast<uint32_t>(float_to_half(high)) << 16;
}
SIMT_QUIET inline float2 unpack_halves(uint32_t bits) {
    return {half_to_float(static_cast<uint16_t>(bits)), half_to_float(static_cast<uint16_t>(bits >> 16))};
}

inline float power_of_two(float x) { return std::exp2(x); }
inline float log_of_two(float x) { return std::log2(x); }
inline float hyperbolic_tangent(float x) { return std::tanh(x); }
/** Products and quotients that are rounded by themselves: no compiler makes them part of another operation. */
SIMT_QUIET inline float exact_product(float a, float b) { return a * b; }
SIMT_QUIET inline float exact_sum(float a, float b) { return a + b; }
SIMT_QUIET inline float exact_quotient(float a, float b) { return a / b; }
/** Byte i of the result: that of high:low which bits 4i … 4i + 2 of `which` name. */
SIMT_QUIET inline uint32_t pick_bytes(uint32_t low, uint32_t high, uint32_t which) {
    const uint64_t all = low | static_cast<uint64_t>(high) << 32;
    uint32_t picked = 0;
    for (int i = 0; i < 4; ++i) picked |= static_cast<uint32_t>(all >> (8 * (which >> (4 * i) & 7)) & 0xFF) << (8 * i);
    return picked;
}
/** To the nearest integer, ties to even. */
SIMT_QUIET inline int round_to_even(float x) { return static_cast<int>(std::nearbyint(x)); }
/** sum + the products of four signed bytes each. */
SIMT_QUIET inline int dot_bytes(uint32_t a, uint32_t b, int sum) {
    for (int i = 0; i < 32; i += 8) sum += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
    return sum;
}
SIMT_QUIET inline int lowest_bit(uint64_t bits) { return __builtin_ctzll(bits); }

// --- device memory ---

template <class T>
inline T read_as(const void* from, Where where) {
    if (reinterpret_cast<uintptr_t>(from) % alignof(T) != 0) fail("misaligned read of device memory", where);
    count_read(from, sizeof(T), where);
    if constexpr (sizeof(T) == 16) {
        // A vector type: to compilers and sanitizers one access of sixteen bytes.
        using Vector [[gnu::vector_size(16), gnu::may_alias]] = unsigned;
        const Vector value = *static_cast<const Vector*>(from);
        T result;
        __builtin_memcpy(&result, &value, 16);
        return result;
    } else {
        return *static_cast<const T*>(from);
    }
}
/** A value of device memory that nobody writes while the kernel runs. */
template <class T>
inline T read(const T* from, Where where = Where::current()) {
    return read_as<T>(from, where);
}
/** One that other blocks of the same launch have written: past the caches of a multiprocessor. */
template <class T>
inline T read_fresh(const T* from, Where where = Where::current()) {
    return read_as<T>(from, where);
}
template <class T>
inline void write(T* to, T value, Where where = Where::current()) {
    if (reinterpret_cast<uintptr_t>(to) % alignof(T) != 0) fail("misaligned write of device memory", where);
    count_write(to, sizeof(T), where);
    *to = value;
}

// --- asynchronous copies ---

/** Sixteen bytes from device to shared memory, or zeros where not `there`: done at the latest when copy_wait says so. */
inline void copy16(void* to, const void* from, bool there, Where where = Where::current()) {
    copy_async(to, from, 16, there ? 16 : 0, where);
}
template <int kGroupsLeft>
inline void copy_wait() {
    copy_wait(kGroupsLeft);
}

// --- order ---

/** Adds to a counter in device memory and returns what it was. */
inline unsigned count_up(unsigned* counter) {
    return atomic_order(counter) == __ATOMIC_RELAXED ? __atomic_fetch_add(counter, 1u, __ATOMIC_RELAXED)
                                                     : __atomic_fetch_add(counter, 1u, __ATOMIC_RELEASE);
}

/** Adds to a counter in shared memory; orders nothing. */
inline void add_shared(unsigned* counter, unsigned n) { __atomic_fetch_add(counter, n, __ATOMIC_RELAXED); }

template <class T>
SIMT_QUIET T shuffle_from(unsigned mask, T value, unsigned source, const char* what, Where where) {
    static_assert(sizeof(T) <= kSlotBytes && std::is_trivially_copyable_v<T>);
    if ((mask >> (source & 31) & 1) == 0) fail("shuffle reads a lane outside its mask", where);
    const Slot* slots = warp_exchange(mask, &value, sizeof(T), what, where);
    T result;
    __builtin_memcpy(&result, slots[source & 31], sizeof(T));
    return result;
}

}  // namespace atlas::simt

inline void __syncthreads(atlas::simt::Where where = atlas::simt::Where::current()) {
    atlas::simt::block_barrier(where);
}
inline int __syncthreads_or(int value, atlas::simt::Where where = atlas::simt::Where::current()) {
    return atlas::simt::block_count(value != 0, where) != 0;
}
inline void __syncwarp(unsigned mask = ~0u, atlas::simt::Where where = atlas::simt::Where::current()) {
    atlas::simt::warp_barrier(mask, where);
}
inline void __threadfence() { atlas::simt::fence(); }

template <class T>
SIMT_QUIET T __shfl_sync(unsigned mask, T value, int lane, atlas::simt::Where where = atlas::simt::Where::current()) {
    return atlas::simt::shuffle_from(mask, value, static_cast<unsigned>(lane), "shfl", where);
}
template <class T>
SIMT_QUIET T __shfl_xor_sync(unsigned mask, T value, int other,
                             atlas::simt::Where where = atlas::simt::Where::current()) {
    return atlas::simt::shuffle_from(mask, value, atlas::simt::self->lane ^ static_cast<unsigned>(other), "shfl.xor",
                                     where);
}
SIMT_QUIET inline unsigned __ballot_sync(unsigned mask, int predicate,
                                         atlas::simt::Where where = atlas::simt::Where::current()) {
    const atlas::simt::Slot* slots = atlas::simt::warp_exchange(mask, &predicate, sizeof predicate, "ballot", where);
    unsigned bits = 0;
    for (unsigned lane = 0; lane < 32; ++lane) {
        int value = 0;
        if (mask >> lane & 1) __builtin_memcpy(&value, slots[lane], sizeof value);
        bits |= static_cast<unsigned>(value != 0) << lane;
    }
    return bits;
}
