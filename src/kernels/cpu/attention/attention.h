#pragma once

#include "kernels/attention.h"

namespace atlas::kernels::cpu {

/** attention() on the SIMD variant in use; args have passed check_attention. */
Status attention(const AttentionArgs& args, int n_threads);

}  // namespace atlas::kernels::cpu
