#include "kernels/cpu/attention/row_ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention/few/f16.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "kernels/cpu/attention/few-inl.h"

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {

RowOps OpsF16() { return {&Score<LoadF16>, &Value<LoadF16>}; }

}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {

HWY_EXPORT(OpsF16);

RowOps row_ops_f16() { return HWY_DYNAMIC_DISPATCH(OpsF16)(); }

}  // namespace atlas::kernels::cpu
#endif
