#include "kernels/kernel_table.h"
#include "kernels/reference/columns.h"
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
#define ATLAS_CODE_ENTRY(result, name, parameters, arguments) .name = reference::name,
#include "kernels/codes.def"
    .gemm = reference::gemm,
    .gemm_bf16 = reference::gemm_bf16,
    .quantise_activations = reference::quantise_activations,
    .multiply_weights = reference::multiply_weights,
    .add_columns = reference::add_columns,
    .rms_norm = reference::rms_norm,
    .add = reference::add,
    .product = reference::product,
    .gated = reference::gated,
    .rotate_pairs = reference::rotate_pairs,
    .gelu = reference::gelu,
    .scaled_copy = reference::scaled_copy,
    .scaled_add = reference::scaled_add,
    .square_sum = reference::square_sum,
    .all_finite = reference::all_finite,
    .cosine = reference::cosine,
    .exponential = reference::exponential,
};

}  // namespace

const Table& reference_table() { return kTable; }

}  // namespace atlas::kernels
