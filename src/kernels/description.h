#pragma once

namespace atlas::kernels {

/** kernel_variant() for people: with "AMX tiles" behind it where products run on these. */
const char* kernel_description();

/**
 * What CUDA does here, in a line for people: whether kernels are built in, whether there is a driver and a device, and that no graph runs on it. The first
 * call starts the driver, which may take a second.
 */
const char* cuda_description();

}  // namespace atlas::kernels
