#pragma once

#include <ggml-backend.h>

#include "host/buffers/owner_memory.h"

namespace atlas::host {

/**
 * The buffer type of device ATLAS0. A buffer is a reserved, inaccessible address range. K and V caches keep their addresses in it as
 * names only: their bytes live in pages, so a stray access traps. Every other tensor's part of the range is made ordinary memory.
 */
ggml_backend_buffer_type_t owner_buffer_type();

/** Whether a buffer was allocated from owner_buffer_type(). nullptr: no. */
bool is_owner_buffer(ggml_backend_buffer_t buffer);

/** Whether tensor or the tensor it views lies in one of our buffers; a buffer of size 0 (a dry run) counts by the tensor's name. */
bool is_owned(const ggml_tensor* tensor);

/**
 * Placement of a tensor by its address; nothing else about it is trusted, so it may come from anywhere. {} for tensors of other buffers, and, with
 * a line in the log, for one that does not lie inside its buffer. Thread-safe. Throws std::bad_alloc.
 */
Placement placement_of(const ggml_tensor* tensor);

}  // namespace atlas::host
