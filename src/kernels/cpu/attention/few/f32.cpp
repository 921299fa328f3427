#include "kernels/cpu/attention/row_ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention/few/f32.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "kernels/cpu/attention/few-inl.h"

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {

RowOps OpsF32() { return {&Score<LoadF32>, &Value<LoadF32>}; }

}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {

HWY_EXPORT(OpsF32);

RowOps row_ops_f32() { return HWY_DYNAMIC_DISPATCH(OpsF32)(); }

}  // namespace atlas::kernels::cpu
#endif
