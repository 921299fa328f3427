#include "kernels/cpu/weights/columns.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/weights/columns.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/cache_control.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

/** Columns at a time: y is read and written once for all of them. */
constexpr size_t kColumns = 4;

struct F32 {
    using Word = float;
    static HWY_INLINE V Load(const Word* from) { return hn::LoadU(D(), from); }
    static HWY_INLINE V LoadSome(const Word* from, size_t n) { return hn::LoadN(D(), from, n); }
};
struct F16 {
    using Word = hwy::float16_t;
    static HWY_INLINE V Load(const Word* from) { return hn::PromoteTo(D(), hn::LoadU(hn::Rebind<Word, D>(), from)); }
    static HWY_INLINE V LoadSome(const Word* from, size_t n) {
        return hn::PromoteTo(D(), hn::LoadN(hn::Rebind<Word, D>(), from, n));
    }
};
struct BF16 {
    using Word = hwy::bfloat16_t;
    static HWY_INLINE V Load(const Word* from) { return hn::PromoteTo(D(), hn::LoadU(hn::Rebind<Word, D>(), from)); }
    static HWY_INLINE V LoadSome(const Word* from, size_t n) {
        return hn::PromoteTo(D(), hn::LoadN(hn::Rebind<Word, D>(), from, n));
    }
};

template <class T>
const typename T::Word* ColumnOf(const ColumnSum& sum, size_t i) {
    return reinterpret_cast<const typename T::Word*>(sum.columns + static_cast<size_t>(sum.which[i]) * sum.stride);
}

/** Columns [first, first + C); those that follow are brought near meanwhile: they lie anywhere, so that the processor does not guess them. */
template <class T, size_t C>
HWY_NOINLINE void Add(const ColumnSum& sum, size_t first) {
    const D d;
    const size_t lanes = hn::Lanes(d);
    const auto n = static_cast<size_t>(sum.n);
    const auto count = static_cast<size_t>(sum.count);
    const typename T::Word* from[C];
    const typename T::Word* later[C];
    V factor[C];
    for (size_t c = 0; c < C; ++c) {
        from[c] = ColumnOf<T>(sum, first + c);
        later[c] = ColumnOf<T>(sum, std::min(count - 1, first + C + c));
        factor[c] = hn::Set(d, sum.factors[first + c]);
    }
    constexpr size_t kLine = 64 / sizeof(typename T::Word);
    size_t r = 0;
    for (; r + lanes <= n; r += lanes) {
        if (r % kLine == 0) {
            for (size_t c = 0; c < C; ++c) hwy::Prefetch(later[c] + r);
        }
        V a = hn::LoadU(d, sum.y + r), b = hn::Zero(d);
        for (size_t c = 0; c < C; ++c) {
            V& part = c % 2 == 0 ? a : b;
            part = hn::MulAdd(factor[c], T::Load(from[c] + r), part);
        }
        hn::StoreU(hn::Add(a, b), d, sum.y + r);
    }
    if (r == n) return;
    V a = hn::LoadN(d, sum.y + r, n - r);
    for (size_t c = 0; c < C; ++c) a = hn::MulAdd(factor[c], T::LoadSome(from[c] + r, n - r), a);
    hn::StoreN(a, d, sum.y + r, n - r);
}

template <class T>
void AddAll(const ColumnSum& sum) {
    const auto count = static_cast<size_t>(sum.count);
    size_t i = 0;
    for (; i + kColumns <= count; i += kColumns) Add<T, kColumns>(sum, i);
    for (; i < count; ++i) Add<T, 1>(sum, i);
}

void AddColumns(const ColumnSum& sum) {
    if (sum.n <= 0) return;
    switch (sum.type) {
        case WeightType::kF16:
            return AddAll<F16>(sum);
        case WeightType::kBF16:
            return AddAll<BF16>(sum);
        default:
            return AddAll<F32>(sum);
    }
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {
HWY_EXPORT(AddColumns);

void add_columns(const ColumnSum& sum) { HWY_DYNAMIC_DISPATCH(AddColumns)(sum); }

}  // namespace atlas::kernels::cpu
#endif
