#pragma once

// nvcc's side of kernels/cuda/simt.h; contracts are those of the twins in tests/cuda/emulator.

#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#define SIMT_DEVICE __device__ __forceinline__
#define SIMT_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

namespace atlas::simt {

class Carver {
public:
    SIMT_DEVICE explicit Carver(unsigned char* memory) : at_(memory) {}
    template <class T>
    SIMT_DEVICE T* take(size_t n) {
        T* piece = reinterpret_cast<T*>(at_);
        at_ += (n * sizeof(T) + 15) / 16 * 16;
        return piece;
    }

private:
    unsigned char* at_;
};

// --- numbers ---

SIMT_DEVICE float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
SIMT_DEVICE uint32_t float_to_bits(float value) { return __float_as_uint(value); }
SIMT_DEVICE float half_to_float(uint16_t half) { return __half2float(__ushort_as_half(half)); }
SIMT_DEVICE uint16_t float_to_half(float value) { return __half_as_ushort(__float2half_rn(value)); }
SIMT_DEVICE uint32_t pack_halves(float low, float high) {
    const __half2 both = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&both);
}
SIMT_DEVICE float2 unpack_halves(uint32_t bits) { return __half22float2(*reinterpret_cast<const __half2*>(&bits)); }
SIMT_DEVICE float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
SIMT_DEVICE float log_of_two(float x) { return log2f(x); }
SIMT_DEVICE float hyperbolic_tangent(float x) { return tanhf(x); }
SIMT_DEVICE float exact_product(float a, float b) { return __fmul_rn(a, b); }
SIMT_DEVICE float exact_sum(float a, float b) { return __fadd_rn(a, b); }
SIMT_DEVICE float exact_quotient(float a, float b) { return __fdiv_rn(a, b); }
SIMT_DEVICE uint32_t pick_bytes(uint32_t low, uint32_t high, uint32_t which) { return __byte_perm(low, high, which); }
SIMT_DEVICE int round_to_even(float x) { return __float2int_rn(x); }
SIMT_DEVICE int dot_bytes(uint32_t a, uint32_t b, int sum) {
    return __dp4a(static_cast<int>(a), static_cast<int>(b), sum);
}
SIMT_DEVICE int lowest_bit(uint64_t bits) { return __ffsll(static_cast<long long>(bits)) - 1; }

// --- device memory ---

// __ldg says that the address is one of device memory: what comes out of a page table would otherwise be read by the generic LD.
template <class T>
SIMT_DEVICE T read(const T* from) {
    return __ldg(from);
}
SIMT_DEVICE uint64_t read(const uint64_t* from) { return __ldg(reinterpret_cast<const unsigned long long*>(from)); }
SIMT_DEVICE int64_t read(const int64_t* from) { return __ldg(reinterpret_cast<const long long*>(from)); }
template <class T>
SIMT_DEVICE T read_fresh(const T* from) {
    return __ldcg(from);
}
template <class T>
SIMT_DEVICE void write(T* to, T value) {
    __builtin_assume(__isGlobal(to));
    *to = value;
}

// --- asynchronous copies; before sm_80 plain ones ---

SIMT_DEVICE unsigned shared_address(const void* at) { return static_cast<unsigned>(__cvta_generic_to_shared(at)); }

SIMT_DEVICE void copy16(void* to, const void* from, bool there) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(__cvta_generic_to_global(from)), "r"(there ? 16 : 0)
                 : "memory");
#else
    *static_cast<uint4*>(to) = there ? __ldg(static_cast<const uint4*>(from)) : make_uint4(0, 0, 0, 0);
#endif
}
SIMT_DEVICE void copy_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int kGroupsLeft>
SIMT_DEVICE void copy_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(kGroupsLeft) : "memory");
#endif
}

// --- order ---

SIMT_DEVICE unsigned count_up(unsigned* counter) { return atomicAdd(counter, 1u); }
SIMT_DEVICE void add_shared(unsigned* counter, unsigned n) { atomicAdd(counter, n); }

// --- tensor cores ---

SIMT_DEVICE void mma_halves(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else  // Turing has the half of it
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[2]), "r"(a[3]), "r"(b[1]));
#endif
}

SIMT_DEVICE void load_transposed(uint32_t (&tile)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(tile[0]), "=r"(tile[1])
                 : "r"(shared_address(row))
                 : "memory");
}

}  // namespace atlas::simt
