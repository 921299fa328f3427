#pragma once

#include <ggml.h>

#include <cstdint>
#include <optional>

#include "kernels/weights.h"
#include "weights/format_store.h"

namespace atlas::host {

/**
 * Which part of a model a product's matrix is, or the several that experts have, if ATLAS_WEIGHT_FORMAT may round it: f32, f16 or bf16 weights of layers, and
 * the output head, which may be the embeddings. What chooses experts stays as it is: it is small, and a little noise costs much there.
 */
std::optional<weights::FormatStore::Part> part_to_round(const ggml_tensor* weights);

/** What products with the weights read, those of all experts one after the other: of what they were rounded to, if they were. weight_type_of() knows them. */
kernels::WeightMatrix matrix_of(const ggml_tensor* weights, const weights::FormatStore* formats);

/** weights::WeightDecoder, by the host's own functions. */
void decode_weights(kernels::WeightType type, const std::byte* row, int64_t cols, float* out);

}  // namespace atlas::host
