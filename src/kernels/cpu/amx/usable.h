#pragma once

// Intel's tiles of 16 × 64 bytes (AMX, Sapphire Rapids and later). no_amx/ answers for other processors.

namespace atlas::kernels::cpu {

/** Whether this processor and its kernel lend tiles to the process, and no lesser instruction set is forced. Asks the kernel once. */
bool amx_usable();

}  // namespace atlas::kernels::cpu
