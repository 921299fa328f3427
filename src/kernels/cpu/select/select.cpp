#include "kernels/select.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/select/select.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

size_t CountAtLeast(const uint32_t* keys, size_t n, uint32_t least) {
    const hn::ScalableTag<uint32_t> d;
    const size_t lanes = hn::Lanes(d);
    const auto bound = hn::Set(d, least);
    size_t count = 0;
    size_t i = 0;
    for (; i + lanes <= n; i += lanes) count += hn::CountTrue(d, hn::Ge(hn::LoadU(d, keys + i), bound));
    for (; i < n; ++i) count += keys[i] >= least;
    return count;
}

/** Bit by bit from the top: at most 32 passes over keys that lie in the cache, without a branch that could be mispredicted. */
uint32_t NthLargest(const uint32_t* keys, size_t n, size_t count) {
    uint32_t found = 0;
    for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
        if (CountAtLeast(keys, n, found | bit) >= count) found |= bit;
    }
    return found;
}

}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels {
namespace cpu {
HWY_EXPORT(NthLargest);
}  // namespace cpu

uint32_t nth_largest(const uint32_t* keys, size_t n, size_t count) {
    return HWY_DYNAMIC_DISPATCH(cpu::NthLargest)(keys, n, count);
}

}  // namespace atlas::kernels
#endif
