#pragma once

#include "kernels/columns.h"

namespace atlas::kernels::cpu {

/** The entry of cpu_table(). */
void add_columns(const ColumnSum& sum);

}  // namespace atlas::kernels::cpu
