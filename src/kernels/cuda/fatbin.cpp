#include "kernels/cuda/fatbin.h"

// The file that nvcc made (cmake/AtlasCuda.cmake), as it is.
asm(R"(
.section .rodata
.balign 64
.globl atlas_fatbin_begin
.hidden atlas_fatbin_begin
atlas_fatbin_begin:
.incbin ")" ATLAS_FATBIN R"("
.globl atlas_fatbin_end
.hidden atlas_fatbin_end
atlas_fatbin_end:
.byte 0
.text
)");
extern "C" {
extern const std::byte atlas_fatbin_begin[];
extern const std::byte atlas_fatbin_end[];
}

namespace atlas::kernels::cuda {

std::span<const std::byte> fatbin() { return {atlas_fatbin_begin, atlas_fatbin_end}; }

const char* fatbin_architectures() { return ATLAS_FATBIN_ARCHITECTURES; }

}  // namespace atlas::kernels::cuda
