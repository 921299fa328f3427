#include "kernels/cpu/ops.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/ops.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "kernels/cpu/attention/decode-inl.h"

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {

template <class Load>
void Register(CpuOps* ops) {
    const auto index = static_cast<size_t>(Load::kType);
    ops->score[index] = &Score<Load>;
    ops->value[index] = &Value<Load>;
    ops->decode[index] = &DecodeRows<Load>;
}

const CpuOps* Table() {
    static const CpuOps table = [] {
        CpuOps ops{};
        ops.target = HWY_TARGET;
        Register<LoadF32>(&ops);
        Register<LoadF16>(&ops);
        Register<LoadBF16>(&ops);
        Register<LoadQ8_0>(&ops);
        Register<LoadQ4_0>(&ops);
        Register<LoadQ4_1>(&ops);
        Register<LoadQ5_0>(&ops);
        Register<LoadQ5_1>(&ops);
        Register<LoadIQ4_NL>(&ops);
        ops.max = &MaxOf;
        ops.exp_sum = &ExpSum;
        ops.scale = &ScaleBy;
        ops.finite = &AllFinite;
        ops.soft_cap = &SoftCap;
        return ops;
    }();
    return &table;
}

}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {

HWY_EXPORT(Table);

const CpuOps& cpu_ops() { return *HWY_DYNAMIC_DISPATCH(Table)(); }

}  // namespace atlas::kernels::cpu
#endif
