#pragma once

#include "kernels/columns.h"

namespace atlas::kernels::reference {

/** The entry of reference_table(). */
void add_columns(const ColumnSum& sum);

}  // namespace atlas::kernels::reference
