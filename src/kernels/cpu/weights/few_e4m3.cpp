#include "kernels/cpu/vectors.h"
#include "kernels/cpu/weights/few.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/weights/few_e4m3.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "kernels/cpu/weights/e4m3-inl.h"
#include "kernels/cpu/weights/few-inl.h"
#include "kernels/cpu/weights/pairs-inl.h"

// One to four columns of weights in E4M3. Per 64 of them: five shifts and masks, products in pairs of bf16, and one multiplication by the block's scale.

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {

/** 2^(s − kE4M3LeastScale): what the sums of a block are to be multiplied by. */
HWY_INLINE V ScaleOf(uint8_t s) {
    const uint32_t bits = (uint32_t{s} + 127u - static_cast<uint32_t>(kE4M3LeastScale)) << 23;
    return hn::BitCast(D(), hn::Set(DU(), bits));
}

template <size_t C>
HWY_NOINLINE void Rows(const FewArgs& args, size_t first_column) {
    const D d;
    const DU du;
    const DE4M3 d16;
    const FewColumns<C> columns(args, first_column);
    const uint32_t* words[C];
    for (size_t c = 0; c < C; ++c) words[c] = reinterpret_cast<const uint32_t*>(columns.values[c]);
    const size_t lanes = hn::Lanes(d);
    constexpr size_t kHalf = kE4M3Block / 4;  // 32-bit words of half a block's activations
    const size_t blocks = static_cast<size_t>(args.weights.cols) / kE4M3Block;
    for (int64_t r = args.begin; r < args.end; ++r) {
        const uint8_t* from = args.row(r);
        V total[C][2];
        ATLAS_UNROLL
        for (size_t c = 0; c < C; ++c) total[c][0] = total[c][1] = hn::Zero(d);
        size_t at = 0;
        const auto add_block = [&](size_t which) HWY_ATTR {
            V sum[C];
            ATLAS_UNROLL
            for (size_t c = 0; c < C; ++c) sum[c] = hn::Zero(d);
            ATLAS_UNROLL
            for (size_t i = 0; i < kHalf; i += lanes) {
                const VE4M3 codes = hn::LoadU(d16, reinterpret_cast<const int16_t*>(from + 1 + 4 * i));
                const VU lower = hn::BitCast(du, SmallWords<true>(codes));
                const VU upper = hn::BitCast(du, SmallWords<false>(codes));
                ATLAS_UNROLL
                for (size_t c = 0; c < C; ++c) {
                    sum[c] = DotPairs(d, lower, hn::Load(du, words[c] + at + i), sum[c]);
                    sum[c] = DotPairs(d, upper, hn::Load(du, words[c] + at + kHalf + i), sum[c]);
                }
            }
            const V scale = ScaleOf(from[0]);
            ATLAS_UNROLL
            for (size_t c = 0; c < C; ++c) total[c][which] = hn::MulAdd(sum[c], scale, total[c][which]);
            from += kE4M3BlockBytes;
            at += 2 * kHalf;
        };
        size_t b = 0;
        for (; b + 2 <= blocks; b += 2) {
            PrefetchRow(args.soon(from), 2 * kE4M3BlockBytes);
            add_block(0);
            add_block(1);
        }
        if (b < blocks) add_block(0);
        ATLAS_UNROLL
        for (size_t c = 0; c < C; ++c) columns.out[c][r] = hn::ReduceSum(d, hn::Add(total[c][0], total[c][1]));
    }
}

void MultiplyFewE4M3(const FewArgs& args) {
    EachGroup<kMostColumns>(
        args, [](auto count, const FewArgs& part, size_t first) { Rows<decltype(count)::value>(part, first); });
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {
HWY_EXPORT(MultiplyFewE4M3);
void multiply_few_e4m3(const FewArgs& args) { HWY_DYNAMIC_DISPATCH(MultiplyFewE4M3)(args); }
}  // namespace atlas::kernels::cpu
#endif
