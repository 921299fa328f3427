#include <algorithm>
#include <cstring>

#include "kernels/cpu/vectors.h"
#include "kernels/cpu/weights/few.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/weights/few_floats.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "kernels/cpu/weights/few-inl.h"
#include "kernels/cpu/weights/pairs-inl.h"

// One to four columns of f32, f16 and bf16: every row is read once.

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {

/** Sums of a row that do not wait for each other. */
constexpr size_t kSums = 4;

struct F32 {
    static constexpr size_t kSize = 4;
    static constexpr size_t kPerLane = 1;
    static HWY_INLINE VU Load(const uint8_t* from) { return hn::LoadU(DU(), reinterpret_cast<const uint32_t*>(from)); }
    static HWY_INLINE V Dot(VU w, VU a, V sum) { return hn::MulAdd(hn::BitCast(D(), w), hn::BitCast(D(), a), sum); }
};
struct F16 : F32 {
    static constexpr size_t kSize = 2;
    static HWY_INLINE VU Load(const uint8_t* from) {
        return hn::BitCast(DU(), WidenVector(reinterpret_cast<const uint16_t*>(from)));
    }
};
struct BF16 : F32 {
    static constexpr size_t kSize = 2;
    static constexpr size_t kPerLane = 2;
    static HWY_INLINE V Dot(VU w, VU a, V sum) { return DotPairs(D(), w, a, sum); }
};

template <class T, size_t C>
HWY_NOINLINE void Rows(const FewArgs& args, size_t first_column) {
    const D d;
    const DU du;
    const FewColumns<C> columns(args, first_column);
    const uint32_t* words[C];
    for (size_t c = 0; c < C; ++c) words[c] = reinterpret_cast<const uint32_t*>(columns.values[c]);
    const size_t lanes = hn::Lanes(d);
    const size_t per_vector = lanes * T::kPerLane;
    const auto cols = static_cast<size_t>(args.weights.cols);
    const size_t whole = cols / per_vector;
    for (int64_t r = args.begin; r < args.end; ++r) {
        const uint8_t* row = args.row(r);
        V sum[C][kSums];
        ATLAS_UNROLL
        for (size_t c = 0; c < C; ++c) {
            ATLAS_UNROLL
            for (size_t u = 0; u < kSums; ++u) sum[c][u] = hn::Zero(d);
        }
        size_t i = 0;
        for (; i + kSums <= whole; i += kSums) {
            PrefetchRow(args.soon(row + i * per_vector * T::kSize), kSums * per_vector * T::kSize);
            ATLAS_UNROLL
            for (size_t u = 0; u < kSums; ++u) {
                const VU w = T::Load(row + (i + u) * per_vector * T::kSize);
                ATLAS_UNROLL
                for (size_t c = 0; c < C; ++c)
                    sum[c][u] = T::Dot(w, hn::Load(du, words[c] + (i + u) * lanes), sum[c][u]);
            }
        }
        for (; i * per_vector < cols; ++i) {
            alignas(64) uint8_t padded[64] = {};
            const size_t left = std::min(per_vector, cols - i * per_vector);
            std::memcpy(padded, row + i * per_vector * T::kSize, left * T::kSize);
            const VU w = T::Load(padded);
            ATLAS_UNROLL
            for (size_t c = 0; c < C; ++c) sum[c][0] = T::Dot(w, hn::Load(du, words[c] + i * lanes), sum[c][0]);
        }
        ATLAS_UNROLL
        for (size_t c = 0; c < C; ++c) {
            const V total = hn::Add(hn::Add(sum[c][0], sum[c][1]), hn::Add(sum[c][2], sum[c][3]));
            columns.out[c][r] = hn::ReduceSum(d, total);
        }
    }
}

template <class T>
void AllColumns(const FewArgs& args) {
    EachGroup<kMostColumns>(
        args, [](auto count, const FewArgs& part, size_t first) { Rows<T, decltype(count)::value>(part, first); });
}

void MultiplyFewFloats(const FewArgs& args) {
    switch (args.weights.type) {
        case WeightType::kF32:
            return AllColumns<F32>(args);
        case WeightType::kF16:
            return AllColumns<F16>(args);
        default:
            return AllColumns<BF16>(args);
    }
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {
HWY_EXPORT(MultiplyFewFloats);
void multiply_few_floats(const FewArgs& args) { HWY_DYNAMIC_DISPATCH(MultiplyFewFloats)(args); }
}  // namespace atlas::kernels::cpu
#endif
