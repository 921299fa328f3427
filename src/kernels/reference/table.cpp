#include "kernels/kernel_table.h"
#include "kernels/reference/codes.h"
#include "kernels/reference/reference.h"

namespace atlas::kernels {
namespace {

constexpr Table kTable = {
    .variant = [] { return "reference"; },
    .check_attention = reference::check_attention,
    .attention = reference::attention,
    .summarize_mask = reference::summarize_mask,
    .merge = reference::merge,
    .decode_rows = reference::decode_rows,
    .encode_row = reference::encode_row,
    .encode_codes = reference::encode_codes,
    .encode_value_mean = reference::encode_value_mean,
    .quantise_queries = reference::quantise_queries,
    .rotate_rows = reference::rotate_rows,
    .score_codes = reference::score_codes,
    .weigh_codes = reference::weigh_codes,
    .cap_scores = reference::cap_scores,
    .add_mask = reference::add_mask,
    .weigh_scores = reference::weigh_scores,
    .share_of_keys = reference::share_of_keys,
    .keys_at_least = reference::keys_at_least,
    .sum_weights = reference::sum_weights,
    .add_rest = reference::add_rest,
    .add_value_mean = reference::add_value_mean,
    .gemm = reference::gemm,
    .gemm_bf16 = reference::gemm_bf16,
    .quantise_activations = reference::quantise_activations,
    .multiply_weights = reference::multiply_weights,
    .gelu = reference::gelu,
    .scaled_copy = reference::scaled_copy,
    .scaled_add = reference::scaled_add,
    .multiply = reference::multiply,
    .square_sum = reference::square_sum,
    .all_finite = reference::all_finite,
    .cosine = reference::cosine,
    .exponential = reference::exponential,
};

}  // namespace

const Table& reference_table() { return kTable; }

}  // namespace atlas::kernels
