#include "kernels/cpu/cpu.h"
#include "kernels/cpu/variant.h"
#include "kernels/cpu/weights/columns.h"
#include "kernels/kernel_table.h"
#include "kernels/reference/reference.h"

namespace atlas::kernels {
namespace {

constexpr Table kTable = {
    .variant = cpu::variant,
    .check_attention = reference::check_attention,  // the CPU runs what the oracle runs
    .attention = cpu::attention,
    .summarize_mask = cpu::summarize_mask,
    .merge = cpu::merge,
    .decode_rows = cpu::decode_rows,
    .encode_row = cpu::encode_row,
#define ATLAS_CODE_ENTRY(result, name, parameters, arguments) .name = cpu::name,
#include "kernels/codes.def"
    .gemm = cpu::gemm,
    .gemm_bf16 = cpu::gemm_bf16,
    .quantise_activations = cpu::quantise_activations,
    .multiply_weights = cpu::multiply_weights,
    .add_columns = cpu::add_columns,
    .rms_norm = cpu::rms_norm,
    .add = cpu::add,
    .product = cpu::product,
    .gated = cpu::gated,
    .rotate_pairs = cpu::rotate_pairs,
    .gelu = cpu::gelu,
    .scaled_copy = cpu::scaled_copy,
    .scaled_add = cpu::scaled_add,
    .square_sum = cpu::square_sum,
    .all_finite = cpu::all_finite,
    .cosine = cpu::cosine,
    .exponential = cpu::exponential,
};

}  // namespace

const Table& cpu_table() { return kTable; }

}  // namespace atlas::kernels
