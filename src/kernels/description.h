#pragma once

namespace atlas::kernels {

/** kernel_variant() for people: with "AMX tiles" behind it where products run on these. */
const char* kernel_description();

}  // namespace atlas::kernels
