#include "kernels/kernel_table.h"

namespace atlas::kernels {

Status cuda_table(const Table**) { return Status::unsupported("kernel variant cuda: this build has no CUDA kernels"); }

}  // namespace atlas::kernels
