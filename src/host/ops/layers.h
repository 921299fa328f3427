#pragma once

#include <ggml.h>

#include "base/status.h"

// What stands between the products of a layer. check_…: unsupported and the reason, unless the node can be run, by types, shapes and parameters
// alone; all want f32 whose rows lie together. run_…: nodes that passed; their results may lie where an operand does.

namespace atlas::host {

Status check_rms_norm(const ggml_tensor* node);
Status run_rms_norm(const ggml_tensor* node, int n_threads);

/** ADD and MUL; rows of the second operand repeat. */
Status check_sum(const ggml_tensor* node);
Status run_add(const ggml_tensor* node, int n_threads);
Status run_mul(const ggml_tensor* node, int n_threads);

/** ReGLU, GEGLU and SwiGLU, with gate and value in two operands or in the halves of one. */
Status check_glu(const ggml_tensor* node);
Status run_glu(const ggml_tensor* node, int n_threads);

}  // namespace atlas::host
