#include "variants.h"

#include <algorithm>
#include <iterator>

#include "kernels/cpu/amx/usable.h"
#include "kernels/kernel_table.h"
#include "variant_test.h"

namespace atlas::kernels::test {

std::vector<const char*> named_variants() { return {"avx2", "avx512", "avx512_vnni", "avx512_bf16", "neon"}; }

std::vector<const char*> codes_variants() {
    return {"reference", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "neon"};
}

std::vector<const char*> weights_variants() { return {std::begin(kVariants), std::end(kVariants)}; }

std::vector<std::string> running_variants() {
    std::vector<std::string> names;
    for (const char* name : named_variants()) {
        if (select_kernel_variant(name).is_ok()) names.emplace_back(name);
    }
    (void)select_kernel_variant("auto");
    if (names.empty()) names.emplace_back("auto");
    return names;
}

// Tiles multiply numbers split into two bf16 each, whose products are off by up to 2⁻¹⁶ of themselves (split_products.h): many queries are then as
// exact as that.
double attention_tolerance(const AttentionArgs& args) {
    const bool many = std::min(args.tokens_per_tile, args.n_tokens) * (args.n_head / args.n_head_kv) > 20;
    return many && cpu::amx_usable() ? 5e-5 : 1e-5;
}

bool declines(const AttentionArgs&) { return false; }

}  // namespace atlas::kernels::test
