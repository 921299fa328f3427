#pragma once

#include <ggml.h>

#include "host/graph/cache_chain.h"
#include "host/ops/delegate.h"

namespace atlas::host {

/**
 * Runs a chain whole, over some cells at a time: the decoded K of a layer (4 bytes a value, more than the cache itself) never exists, and the
 * memory that the host gave the results between is not touched. Throws std::bad_alloc.
 */
ggml_status run_key_shift(const CacheChain& chain, CpuDelegate& delegate);

}  // namespace atlas::host
