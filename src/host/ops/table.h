#pragma once

#include <ggml.h>

#include "host/ops/op.h"

namespace atlas::host {

/** The operation that runs this node with Atlas, nullptr: there is none, or there is something about the node that it does not know. */
const Op* own_op(const ggml_tensor* node);

/**
 * Whether the device takes the node: as Atlas's own, or to have the host's CPU backend run it because of where its operands lie. What an
 * operation of the table declines is said once per reason at level info. owner: the KV lies with us, else attention over the CPU's buffers.
 * Thread-safe. Throws std::bad_alloc.
 */
bool supports_op(const ggml_tensor* node, bool owner);

}  // namespace atlas::host
