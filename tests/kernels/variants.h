#pragma once

#include <string>
#include <vector>

#include "kernels/attention.h"

// Which tables a program runs the bodies of attention_test, codes_test, prefill_test and scattered_test over, and how exact these are: variants.cpp of this folder for
// those of the CPU, of tests/cuda for the emulated device's. A program links one of the two.

namespace atlas::kernels::test {

/** Names that VariantTest tries to select; a test is skipped where the machine lacks one. */
std::vector<const char*> named_variants();
/** Those of them that the machine has, or "auto". */
std::vector<std::string> running_variants();
/** Names that codes_test tries to select. */
std::vector<const char*> codes_variants();
/** Names that weights_test tries to select. */
std::vector<const char*> weights_variants();
/** What outputs and log-sum-exps may be off by, as output_error and lse_error measure it. */
double attention_tolerance(const AttentionArgs& args);
/** Whether the table may leave this case out: by what its check_attention says, never on the CPU. */
bool declines(const AttentionArgs& args);

}  // namespace atlas::kernels::test
