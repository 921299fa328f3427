#pragma once

#include <ggml.h>

#include "base/status.h"

namespace atlas::host {

/** Whether SET_ROWS with these types can be run. */
bool supports_set_rows(const ggml_tensor* op);

/**
 * SET_ROWS: dst[row src1[i]] = src0[i], converted to the type of dst; into pages or ordinary memory. Errors: a row number outside of dst,
 * out of memory; into pages, nothing is written then. Throws std::bad_alloc.
 */
Status set_rows(const ggml_tensor* op, int n_threads);

}  // namespace atlas::host
