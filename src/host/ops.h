#pragma once

#include <ggml.h>

namespace atlas::host {

/** What Atlas does with an operation. */
enum class OpKind { kView, kSetRows, kFlashAttention, kOther };

/** Kind of an op number. Numbers move between versions of ggml, so they are looked up by name once. */
OpKind op_kind(ggml_op op);

/** Whether the device takes the operation; owner: the KV lies with us, else attention over the CPU's buffers. */
bool supports_op(const ggml_tensor* op, bool owner);

}  // namespace atlas::host
