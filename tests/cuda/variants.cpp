// The emulated device as a table: the bodies of tests/kernels run over it as they do over the CPU's.
#include "kernels/variants.h"

#include <algorithm>
#include <cstdlib>

#include "fake_driver.h"
#include "kernels/cuda/plan.h"
#include "kernels/cuda/table.h"
#include "kernels/kernel_table.h"

namespace atlas::kernels::test {
namespace {

void use_emulator() {
    static const cuda::DriverApi api = cuda::test::fake_driver();
    // The order in which blocks, threads and streams take turns; `./dev test --cuda` has several.
    const char* seed = std::getenv("EMULATOR_SEED");
    cuda::test::reset_fake(seed ? static_cast<unsigned>(std::atoi(seed)) : 1);
    cuda::use_driver(&api, cuda::test::fake_image());
}

}  // namespace

std::vector<const char*> named_variants() {
    use_emulator();
    return {"cuda"};
}

std::vector<const char*> codes_variants() { return named_variants(); }

std::vector<const char*> weights_variants() { return named_variants(); }

std::vector<std::string> running_variants() {
    use_emulator();
    return {"cuda"};
}

// On tensor cores queries, weights and dequantised rows are f16, 11 bits: an error of 2⁻¹² in a logit of size 1, and logits here have sizes up to 5.
double attention_tolerance(const AttentionArgs& args) {
    const int64_t rows = std::min(args.tokens_per_tile, args.n_tokens) * (args.n_head / args.n_head_kv);
    const bool tensor_cores = rows > 4 && args.k_type != DataType::kBF16 && args.v_type != DataType::kBF16;
    return tensor_cores ? 4e-3 : 2e-5;
}

bool declines(const AttentionArgs& args) { return !check_attention(args).is_ok(); }

}  // namespace atlas::kernels::test
