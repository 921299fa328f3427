#pragma once

#include <ggml-backend.h>

#include <cstddef>

#include "kv/page_table.h"

namespace atlas::host {

/** Where a tensor of one of our buffers lies: in pages, or in ordinary memory. */
struct Placement {
    kv::PageTable* pages = nullptr;  ///< nullptr: ordinary memory at tensor->data
    size_t offset = 0;                 ///< first byte of the tensor inside `pages`
};

/**
 * The buffer type of device ATLAS0. A buffer is a reserved, inaccessible address range. K and V caches keep their addresses in it as
 * names only: their bytes live in pages, so a stray access traps. Every other tensor's part of the range is made ordinary memory.
 */
ggml_backend_buffer_type_t owner_buffer_type();

/** Whether a buffer was allocated from owner_buffer_type(). nullptr: no. */
bool is_owner_buffer(ggml_backend_buffer_t buffer);

/** Whether tensor or the tensor it views lies in one of our buffers; a buffer of size 0 (a dry run) counts by the tensor's name. */
bool is_owned(const ggml_tensor* tensor);

/** Placement of a tensor; views are followed to the tensor that they see. */
Placement placement_of(const ggml_tensor* tensor);

}  // namespace atlas::host
