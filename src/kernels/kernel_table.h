#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/status.h"
#include "kernels/attention.h"
#include "kernels/codes.h"
#include "kernels/columns.h"
#include "kernels/layers.h"
#include "kernels/matmul.h"
#include "kernels/row_codec.h"
#include "kernels/weights.h"

namespace atlas::kernels {

/**
 * What a device computes: one function per operation, over plain arguments. A device is a table; which one is in use is chosen once, when
 * the library is loaded (select_kernel_variant), and everything outside kernels/ calls through it.
 *
 * For all entries, unless one says otherwise:
 * - f32 and contiguous; no pointer need be aligned beyond its element; outputs overlap inputs only where it is said;
 * - n = 0 does nothing (a sum is 0); nothing is written beyond the last element;
 * - logs are natural;
 * - thread-safe for distinct outputs, single-threaded unless there is an `n_threads` (base/parallel.h), and without exceptions;
 * - NaN and infinities go through as in the formula.
 *
 * Callers may write kernels::gemm(…) for kernels::table().gemm(…): the free function of an entry's name, in attention.h, codes.h,
 * columns.h, elementwise.h, layers.h, matmul.h, merge.h, row_codec.h and weights.h, is that call and nothing else. There is no other way to an implementation.
 */
struct Table {
    /** Name of what runs: "reference", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "neon", "baseline". */
    const char* (*variant)();

    // --- attention (kernels/attention.h) ---

    /** Why this device cannot run `args` (types, sizes), or ok. Looks at types, sizes and strides only, never at data. */
    Status (*check_attention)(const AttentionArgs& args);
    /**
     * The operation that AttentionArgs describes. Allocates nothing per key: workspace is a per-thread buffer that grows to the largest shape
     * seen. Errors: what check_attention says; out of memory for workspace, `out` is then undefined. Results do not depend on n_threads
     * beyond float rounding.
     */
    Status (*attention)(const AttentionArgs& args, int n_threads);
    /** Classifies every 64-key block of a mask per token: out[n_streams][n_heads][n_tokens][ceil(n_keys / 64)]. Reads the mask once. */
    void (*summarize_mask)(const Mask& mask, int64_t n_tokens, int64_t n_keys, BlockVisibility* out, int n_threads);
    /**
     * Merges attention over two disjoint key sets: o = e^{lse_a − L}·a + e^{lse_b − L}·b with L = ln(e^{lse_a} + e^{lse_b}), in place into `a`
     * [d] and *lse_a. A set without a visible key has lse −inf and does not change the other.
     */
    void (*merge)(float* a, float* lse_a, const float* b, float lse_b, int64_t d);

    // --- rows of K and V (kernels/row_codec.h) ---

    /** rows.out[j·d + i] = element i of row j, as f32. */
    void (*decode_rows)(const EncodedRows& rows, float* out);
    /**
     * The bits that GGUF's reference quantisers write (same choice of scale, same rounding; iq4_nl searches its scale and may differ in the
     * last step). `type` is not kOther, n a multiple of its block; n finite elements, or any in f32, f16 and bf16.
     */
    void (*encode_row)(DataType type, const float* src, void* dst, int64_t n);

    // --- two-bit codes of keys (kernels/codes.h): contracts in kernels/codes.def ---

// NOLINTNEXTLINE(bugprone-macro-parentheses): a declarator, not an expression.
#define ATLAS_CODE_ENTRY(result, name, parameters, arguments) result(*name) parameters;
#include "kernels/codes.def"

    // --- products of matrices (kernels/matmul.h) ---

    /** C = alpha·A·B + beta·C. Allocates nothing. */
    void (*gemm)(const GemmArgs& args);
    /**
     * The same with A and B rounded to bf16 (to the nearest, ties to even) and sums in f32. Where the CPU has no bf16 products they are
     * emulated, which is slower than gemm. Each product is off by at most 2⁻⁷ of itself. `work` grows to half of the elements of A and B
     * (std::bad_alloc).
     */
    void (*gemm_bf16)(const GemmArgs& args, std::vector<uint32_t>* work);

    // --- products with quantised weights (kernels/weights.h) ---

    /**
     * Quantises columns [begin, end) of args.x into args.out, whose layout is the table's own affair: only multiply_weights of the same table
     * reads it. A block with an element that is not finite has codes 0 and scale NaN (codes), so that its products are NaN.
     */
    void (*quantise_activations)(const ActivationArgs& args, int64_t begin, int64_t end);
    /**
     * Rows [begin, end) of the product, all n columns: this thread's share. Values are those of the quantised operands, multiplied exactly and
     * summed in an order of the kernel's choice, in f32 or exactly; f16 times f16 may be off by 2⁻¹⁶ of each product. Takes at most 300 KiB of
     * stack and, on tiles, a MiB of workspace a thread (std::bad_alloc).
     */
    void (*multiply_weights)(const WeightProduct& product, int64_t begin, int64_t end);
    /** y[r] += Σ_j factors[j]·columns[which[j]][r], in an order of the kernel's choice, in f32. Of other columns nothing is read (kernels/columns.h). */
    void (*add_columns)(const ColumnSum& sum);

    // --- between the products of a layer (kernels/layers.h); outputs may be the inputs themselves ---

    /** y = x / √(mean of x² + epsilon). The mean in double across blocks. */
    void (*rms_norm)(const float* x, size_t n, float epsilon, float* y);
    /** sum = a + b. */
    void (*add)(const float* a, const float* b, size_t n, float* sum);
    /** y = a ⊙ b. */
    void (*product)(const float* a, const float* b, size_t n, float* y);
    /** y = gate(x) ⊙ up. */
    void (*gated)(Gate gate, const float* x, const float* up, size_t n, float* y);
    /** Rotary position embedding of a row of 2·pairs elements: pair i is turned by the angle with cosines[i] and sines[i]. */
    void (*rotate_pairs)(RopePairs which, const float* x, const float* cosines, const float* sines, size_t pairs,
                         float* y);

    // --- element by element (kernels/elementwise.h); outputs may be the inputs themselves ---

    /** GELU in its tanh form, gelu(z) = z·σ(2√(2/π)(z + 0.044715z³)): value and derivative; `slope` may be null. */
    void (*gelu)(const float* z, size_t n, float* value, float* slope);
    /** y = a·x. */
    void (*scaled_copy)(float a, const float* x, size_t n, float* y);
    /** y = a·x + b·y. */
    void (*scaled_add)(float a, const float* x, float b, size_t n, float* y);
    /** Σ x². In double across blocks, so that it does not drift with n. */
    double (*square_sum)(const float* x, size_t n);
    /** Whether all are finite. */
    bool (*all_finite)(const float* x, size_t n);
    /** y = scale·cos(x). */
    void (*cosine)(const float* x, size_t n, float scale, float* y);
    /** y = e^x. */
    void (*exponential)(const float* x, size_t n, float* y);
};

/** Scalar float64 oracle of every entry: slow, single-threaded, what the others are tested against. */
const Table& reference_table();

/** SIMD for the CPU: every entry picks the instruction set that runs (Highway's dynamic dispatch), or that select_kernel_variant forced. */
const Table& cpu_table();

/** The GPU's. Unsupported, with the reason, where the build or the machine has none; *table is then untouched. */
Status cuda_table(const Table** table);

/** The chosen table: the CPU's until select_kernel_variant says otherwise. */
const Table& table();

/** Name of the chosen variant: table().variant(). */
const char* kernel_variant();

/**
 * Forces a variant by its name ("auto" undoes it, "cuda" is the GPU's table). Fails, naming what there is, when it cannot be run here; the CPU's
 * own choice is then in use. Call before the first operation; not thread-safe.
 */
Status select_kernel_variant(const char* name);

}  // namespace atlas::kernels
