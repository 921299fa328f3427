#pragma once

#include <ggml.h>

namespace atlas::host {

/** What Atlas does with an operation. */
enum class OpKind { kView, kSetRows, kFlashAttention, kCopy, kRope, kMatMul, kOther };

/** Kind of an op number. Numbers move between versions of ggml, so they are looked up by name once. */
OpKind op_kind(ggml_op op);

/** Whether the host has ever put us behind its tensor-parallel wrapper, which hands out tensors without buffer_init_tensor. */
bool serves_tensor_parallel();

/** Whether the device takes the operation; owner: the KV lies with us, else attention over the CPU's buffers. */
bool supports_op(const ggml_tensor* op, bool owner);

}  // namespace atlas::host
