#pragma once

#include <ggml.h>

namespace atlas::host {

/** Whether the host has ever put us behind its tensor-parallel wrapper, which hands out tensors without buffer_init_tensor. */
bool serves_tensor_parallel();

/** Whether the node or one of its operands lies in pages. */
bool touches_pages(const ggml_tensor* node);

/**
 * Whether rows written by the operation outlive the graph with us: into a cache, or into whatever else lies in our buffers. Writes into
 * activations stay where the activations are computed. owner: the KV lies with us, else in the CPU's buffers.
 */
bool is_ours_to_write(const ggml_tensor* op, bool owner);

/** In owner mode: whether an operation that Atlas does not run itself is nevertheless for it to have run, because of where its operands lie. */
bool is_ours_to_delegate(const ggml_tensor* op);

}  // namespace atlas::host
