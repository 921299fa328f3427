#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/status.h"
#include "kernels/layers.h"
#include "kernels/attention.h"
#include "kernels/codes.h"
#include "kernels/matmul.h"
#include "kernels/row_codec.h"
#include "kernels/weights.h"

// The entries of cpu_table(), one file per group; contracts are those of Table. Each dispatches to the instruction set in use.

namespace atlas::kernels::cpu {

Status attention(const AttentionArgs& args, int n_threads);
void summarize_mask(const Mask& mask, int64_t n_tokens, int64_t n_keys, BlockVisibility* out, int n_threads);
void merge(float* a, float* lse_a, const float* b, float lse_b, int64_t d);

void decode_rows(const EncodedRows& rows, float* out);
void encode_row(DataType type, const float* src, void* dst, int64_t n);

#define ATLAS_CODE_ENTRY(result, name, parameters, arguments) result name parameters;
#include "kernels/codes.def"

void gemm(const GemmArgs& args);
void gemm_bf16(const GemmArgs& args, std::vector<uint32_t>* work);

void quantise_activations(const ActivationArgs& args, int64_t begin, int64_t end);
void multiply_weights(const WeightProduct& product, int64_t begin, int64_t end);

void rms_norm(const float* x, size_t n, float epsilon, float* y);
void add(const float* a, const float* b, size_t n, float* sum);
void product(const float* a, const float* b, size_t n, float* y);
void gated(Gate gate, const float* x, const float* up, size_t n, float* y);
void rotate_pairs(RopePairs which, const float* x, const float* cosines, const float* sines, size_t pairs, float* y);
void gelu(const float* z, size_t n, float* value, float* slope);
void scaled_copy(float a, const float* x, size_t n, float* y);
void scaled_add(float a, const float* x, float b, size_t n, float* y);
double square_sum(const float* x, size_t n);
bool all_finite(const float* x, size_t n);
void cosine(const float* x, size_t n, float scale, float* y);
void exponential(const float* x, size_t n, float* y);

}  // namespace atlas::kernels::cpu
