#include "kernels/cpu/attention/row_ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention/few/bf16.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "kernels/cpu/attention/few-inl.h"

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {

RowOps OpsBF16() { return {&Score<LoadBF16>, &Value<LoadBF16>}; }

}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {

HWY_EXPORT(OpsBF16);

RowOps row_ops_bf16() { return HWY_DYNAMIC_DISPATCH(OpsBF16)(); }

}  // namespace atlas::kernels::cpu
#endif
