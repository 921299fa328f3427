#pragma once

#include <ggml.h>

#include "host/ops/delegate.h"

namespace atlas::host {

/**
 * Runs a node of the host's with operands in pages: the range that the operation can touch is copied out, the operation runs on the copy, and
 * what it wrote is copied back, slice by slice where it can be cut.
 */
ggml_status run_paged(ggml_tensor* node, CpuDelegate& delegate);

}  // namespace atlas::host
