#include "kernels/cpu/variant.h"

#include <array>
#include <cstdint>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/variant.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {

int64_t Target() { return HWY_TARGET; }

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {
namespace {

struct Variant {
    const char* name;
    int64_t targets;  // Highway targets of that name
};

constexpr std::array<Variant, 5> kVariants = {{
    {"avx512_bf16", HWY_AVX3_ZEN4 | HWY_AVX3_SPR},
    {"avx512_vnni", HWY_AVX3_DL},
    {"avx512", HWY_AVX3},
    {"avx2", HWY_AVX2},
    {"neon", HWY_NEON | HWY_NEON_WITHOUT_AES | HWY_NEON_BF16},
}};

}  // namespace

HWY_EXPORT(Target);

const char* variant() {
    const int64_t target = HWY_DYNAMIC_DISPATCH(Target)();
    for (const Variant& variant : kVariants) {
        if (target & variant.targets) return variant.name;
    }
    return "baseline";
}

bool runs_on_sapphire_rapids() { return (HWY_DYNAMIC_DISPATCH(Target)() & HWY_AVX3_SPR) != 0; }

bool force_variant(const char* name) {
    hwy::SetSupportedTargetsForTest(0);
    if (name == nullptr) return true;
    for (const Variant& candidate : kVariants) {
        if (std::strcmp(name, candidate.name) != 0) continue;
        const int64_t supported = hwy::SupportedTargets();
        const int64_t wanted = supported & candidate.targets;
        if (wanted == 0) return false;
        // Lower bits are better targets. Worse ones stay for files that have no copy for this one.
        hwy::SetSupportedTargetsForTest(supported & ~((wanted & -wanted) - 1));
        if (std::strcmp(variant(), name) == 0) return true;
        hwy::SetSupportedTargetsForTest(0);
        return false;
    }
    return false;
}

std::string available_variants() {
    std::string names;
    for (const Variant& candidate : kVariants) {
        if (hwy::SupportedTargets() & candidate.targets) names += std::string(", ") + candidate.name;
    }
    return names;
}

}  // namespace atlas::kernels::cpu
#endif
