#pragma once

#include <ggml.h>

#include "base/status.h"

namespace atlas::host {

/**
 * Fails where attention would see cells that do not hold what the host put there (kv::PageTable::damage), and names the tensor. To be asked
 * right before the node runs: masks may be computed in the graph.
 */
Status check_attended(const ggml_tensor* attention);

/** The same for an operation that looks at all of its operands. Rotary embeddings work cell by cell: damage stays where it is. */
Status check_operands(const ggml_tensor* node);

/**
 * Tells the caches of an attention node that behind the cells it looks at, which are the first of each stream, no cell is in use: the host lets
 * attention look at all cells in use, whichever sequence uses them, and hides those of others by the mask.
 */
void note_live_cells(const ggml_tensor* attention);

}  // namespace atlas::host
