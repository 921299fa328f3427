#include "kernels/cpu/attention/row_ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention/few/q4_0.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "kernels/cpu/attention/few-inl.h"

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {

RowOps OpsQ4_0() { return {&Score<LoadQ4_0>, &Value<LoadQ4_0>}; }

}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {

HWY_EXPORT(OpsQ4_0);

RowOps row_ops_q4_0() { return HWY_DYNAMIC_DISPATCH(OpsQ4_0)(); }

}  // namespace atlas::kernels::cpu
#endif
