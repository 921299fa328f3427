#include "kernels/attention.h"

#include <hwy/targets.h>

#include <array>
#include <cmath>
#include <cstring>
#include <string>

#include "kernels/cpu/attention/attention.h"
#include "kernels/cpu/ops.h"

namespace atlas::kernels {
namespace {

struct Variant {
    const char* name;
    int64_t targets;  // Highway targets of that name
};

constexpr std::array<Variant, 4> kVariants = {{
    {"avx512_bf16", HWY_AVX3_ZEN4 | HWY_AVX3_SPR},
    {"avx512", HWY_AVX3 | HWY_AVX3_DL},
    {"avx2", HWY_AVX2},
    {"neon", HWY_NEON | HWY_NEON_WITHOUT_AES | HWY_NEON_BF16},
}};

bool g_reference = false;

std::string available() {
    std::string names = "auto, reference";
    for (const Variant& variant : kVariants) {
        if (hwy::SupportedTargets() & variant.targets) names += std::string(", ") + variant.name;
    }
    return names;
}

}  // namespace

Status select_kernel_variant(const char* name) {
    hwy::SetSupportedTargetsForTest(0);
    g_reference = std::strcmp(name, "reference") == 0;
    if (g_reference || std::strcmp(name, "auto") == 0) return Status::ok();
    for (const Variant& variant : kVariants) {
        if (std::strcmp(name, variant.name) != 0) continue;
        const int64_t wanted = hwy::SupportedTargets() & variant.targets;
        if (wanted == 0) break;
        hwy::SetSupportedTargetsForTest(wanted);
        if (std::strcmp(kernel_variant(), name) == 0) return Status::ok();
        hwy::SetSupportedTargetsForTest(0);
        break;
    }
    return Status::unsupported(std::string("kernel variant ") + name + ": this processor and build have " +
                               available());
}

const char* kernel_variant() {
    if (g_reference) return "reference";
    const int64_t target = cpu::cpu_ops().target;
    for (const Variant& variant : kVariants) {
        if (target & variant.targets) return variant.name;
    }
    return "baseline";
}

Status check_attention(const AttentionArgs& args) {
    const auto bad = [](const std::string& what) { return Status::unsupported("attention: " + what); };
    for (const auto& [d, name] : {std::pair{args.d_k, "key"}, {args.d_v, "value"}}) {
        if (d < 1 || d > kMaxHeadSize) {
            return bad(std::string(name) + " size " + std::to_string(d) + " is not in 1…" +
                       std::to_string(kMaxHeadSize));
        }
    }
    if (args.n_head_kv < 1 || args.n_head < 1 || args.n_head % args.n_head_kv != 0) {
        return bad(std::to_string(args.n_head) + " query heads are no multiple of " + std::to_string(args.n_head_kv) +
                   " KV heads");
    }
    for (const auto& [type, decode, d, name] :
         {std::tuple{args.k_type, args.k_decode, args.d_k, "key"}, {args.v_type, args.v_decode, args.d_v, "value"}}) {
        if (type == DataType::kOther) {
            if (!decode) return bad(std::string(name) + " type has no decoder");
        } else if (const DataTypeInfo& info = data_type_info(type); d % info.block_elements != 0) {
            return bad(std::string(name) + " size " + std::to_string(d) + " with " + info.name + " is no multiple of " +
                       std::to_string(info.block_elements));
        }
    }
    return Status::ok();
}

Status attention(const AttentionArgs& args, int n_threads) {
    if (Status status = check_attention(args); !status.is_ok()) return status;
    if (args.n_tokens == 0 || args.n_stream == 0) return Status::ok();
    return g_reference ? attention_reference(args) : cpu::attention(args, n_threads);
}

float alibi_slope(float max_bias, int64_t head, int64_t n_head) {
    if (max_bias <= 0.0f) return 1.0f;
    int64_t power = 1;
    while (power * 2 <= n_head) power *= 2;
    const double step = static_cast<double>(max_bias) / static_cast<double>(power);
    const double exponent =
        head < power ? step * static_cast<double>(head + 1) : step / 2 * static_cast<double>(2 * (head - power) + 1);
    return static_cast<float>(std::exp2(-exponent));
}

}  // namespace atlas::kernels
