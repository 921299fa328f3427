// The machine's GPU as a table: the bodies of tests/kernels over the real driver (scripts/gpu_check.sh). Tolerances are those of the emulated device, with
// room for ex2.approx, which is off by up to 2⁻²².
#include "kernels/variants.h"

#include <algorithm>

#include "kernels/kernel_table.h"

namespace atlas::kernels::test {

std::vector<const char*> named_variants() { return {"cuda"}; }

std::vector<const char*> codes_variants() { return {"cuda"}; }

std::vector<const char*> weights_variants() { return {"cuda"}; }

std::vector<std::string> running_variants() { return {"cuda"}; }

double attention_tolerance(const AttentionArgs& args) {
    const int64_t rows = std::min(args.tokens_per_tile, args.n_tokens) * (args.n_head / args.n_head_kv);
    const bool tensor_cores = rows > 4 && args.k_type != DataType::kBF16 && args.v_type != DataType::kBF16;
    return tensor_cores ? 4e-3 : 3e-5;
}

bool declines(const AttentionArgs& args) { return !check_attention(args).is_ok(); }

}  // namespace atlas::kernels::test
