#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codes.h"

// Entries of cpu_table(); contracts are those of Table.

namespace atlas::kernels::cpu {

bool encode_codes(const CodeShape& shape, const float* keys, const float* values, std::byte* page);
float encode_value_mean(const float* values, int64_t d_v, uint64_t keys, int8_t* mean);
void quantise_queries(const float* exact, int64_t rows, int64_t d, int8_t* codes, float* scale, float* offset,
                      float* squares);
void rotate_rows(const float* signs, int64_t rows, int64_t d, float* x);
void score_codes(const CodeShape& shape, const CodeQueries& queries, const std::byte* page, float* logits);
void weigh_codes(const CodeShape& shape, const CodeQueries& queries, const std::byte* page, const std::byte* ahead,
                 const float* shift, float* weights, float* sums, float* most);
void cap_scores(float* values, int64_t n, float cap);
void add_mask(const uint16_t* mask, int64_t count, float factor, float* logits);
void weigh_scores(float* values, int64_t rows, const float* shift, float* sums, float* most);
void share_of_keys(const float* weights, int64_t tokens, int64_t group, const float* factor, float* shares);
uint64_t keys_at_least(const float* shares, float least);
void sum_weights(const float* weights, int64_t rows, uint64_t keys, float* sums);
void add_rest(const CodeShape& shape, const std::byte* page, const float* sums, const float* squares, int64_t rows,
              float* total, float* out);
void add_value_mean(const ValueMean& value, int64_t d_v, const float* weights, int64_t rows, float* out);

}  // namespace atlas::kernels::cpu
