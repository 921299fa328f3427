#include "kernels/kernel_table.h"

#include <cstring>
#include <string>

#include "kernels/cpu/amx/usable.h"
#include "kernels/cpu/variant.h"
#include "kernels/description.h"
#include "kernels/elementwise.h"
#include "kernels/merge.h"

namespace atlas::kernels {
namespace {

const Table* g_table = nullptr;  // nullptr: the CPU's

}  // namespace

const Table& table() { return g_table ? *g_table : cpu_table(); }

const char* kernel_variant() { return table().variant(); }

const char* kernel_description() {
    // Tiles are used with one variant alone.
    return &table() == &cpu_table() && cpu::amx_usable() ? "avx512_bf16, AMX tiles" : kernel_variant();
}

Status select_kernel_variant(const char* name) {
    g_table = nullptr;
    cpu::force_variant(nullptr);
    if (std::strcmp(name, "auto") == 0 || cpu::force_variant(name)) return Status::ok();
    if (std::strcmp(name, "reference") == 0) {
        g_table = &reference_table();
        return Status::ok();
    }
    if (std::strcmp(name, "cuda") == 0) return cuda_table(&g_table);
    return Status::unsupported(std::string("kernel variant ") + name +
                               ": this processor and build have auto, reference" + cpu::available_variants());
}

// The callers' names of the entries.

Status check_attention(const AttentionArgs& args) { return table().check_attention(args); }
Status attention(const AttentionArgs& args, int n_threads) { return table().attention(args, n_threads); }
void summarize_mask(const Mask& mask, int64_t n_tokens, int64_t n_keys, BlockVisibility* out, int n_threads) {
    table().summarize_mask(mask, n_tokens, n_keys, out, n_threads);
}
void merge_partial(float* a, float* lse_a, const float* b, float lse_b, int64_t d) {
    table().merge(a, lse_a, b, lse_b, d);
}

void decode_rows(const EncodedRows& rows, float* out) { table().decode_rows(rows, out); }
void encode_row(DataType type, const float* src, void* dst, int64_t n) { table().encode_row(type, src, dst, n); }

#define ATLAS_CODE_ENTRY(result, name, parameters, arguments) \
    result name parameters { return table().name arguments; }
#include "kernels/codes.def"

void gemm(const GemmArgs& args) { table().gemm(args); }
void gemm_bf16(const GemmArgs& args, std::vector<uint32_t>* work) { table().gemm_bf16(args, work); }

void quantise_activations(const ActivationArgs& args, int64_t begin, int64_t end) {
    table().quantise_activations(args, begin, end);
}
void multiply_weights(const WeightProduct& product, int64_t begin, int64_t end) {
    table().multiply_weights(product, begin, end);
}
void add_columns(const ColumnSum& sum) { table().add_columns(sum); }

void rms_norm(const float* x, size_t n, float epsilon, float* y) { table().rms_norm(x, n, epsilon, y); }
void add(const float* a, const float* b, size_t n, float* sum) { table().add(a, b, n, sum); }
void product(const float* a, const float* b, size_t n, float* y) { table().product(a, b, n, y); }
void gated(Gate gate, const float* x, const float* up, size_t n, float* y) { table().gated(gate, x, up, n, y); }
void rotate_pairs(RopePairs which, const float* x, const float* cosines, const float* sines, size_t pairs, float* y) {
    table().rotate_pairs(which, x, cosines, sines, pairs, y);
}
void gelu(const float* z, size_t n, float* value, float* slope) { table().gelu(z, n, value, slope); }
void scaled_copy(float a, const float* x, size_t n, float* y) { table().scaled_copy(a, x, n, y); }
void scaled_add(float a, const float* x, float b, size_t n, float* y) { table().scaled_add(a, x, b, n, y); }
double square_sum(const float* x, size_t n) { return table().square_sum(x, n); }
bool all_finite(const float* x, size_t n) { return table().all_finite(x, n); }
void cosine(const float* x, size_t n, float scale, float* y) { table().cosine(x, n, scale, y); }
void exponential(const float* x, size_t n, float* y) { table().exponential(x, n, y); }

}  // namespace atlas::kernels
