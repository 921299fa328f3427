#pragma once

#include <string>

namespace atlas::kernels::cpu {

/** Name of the instruction set that kernels run with, read in a kernel that was dispatched to it. */
const char* variant();

/** Forces one by name; nullptr undoes it. False, and the own choice in use, when this processor or build has none of that name. Not thread-safe. */
bool force_variant(const char* name);

/** Those that can be forced here, each behind ", ". */
std::string available_variants();

/**
 * Whether what runs was compiled for Highway's set of Sapphire Rapids, which has bf16 products and, if the system lends them, tiles. Costs nothing:
 * hwy::SupportedTargets would ask the processor each time, microseconds in a virtual machine.
 */
bool runs_on_sapphire_rapids();

}  // namespace atlas::kernels::cpu
