#include "kernels/cpu/attention/row_ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention/few/iq4_nl.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "kernels/cpu/attention/few-inl.h"

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {

RowOps OpsIQ4_NL() { return {&Score<LoadIQ4_NL>, &Value<LoadIQ4_NL>}; }

}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {

HWY_EXPORT(OpsIQ4_NL);

RowOps row_ops_iq4_nl() { return HWY_DYNAMIC_DISPATCH(OpsIQ4_NL)(); }

}  // namespace atlas::kernels::cpu
#endif
