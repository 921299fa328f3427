#include "kernels/cpu/amx/usable.h"

namespace atlas::kernels::cpu {

bool amx_usable() { return false; }

}  // namespace atlas::kernels::cpu
