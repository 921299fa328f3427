#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "kernels/cuda/device.h"
#include "kernels/cuda/driver.h"

namespace atlas::kernels::cuda {

/**
 * The driver and the image that cuda_table() uses from now on, for tests; nullptr: the machine's driver and the build's kernels. Closes the
 * device that is open: no table of it may be in use. Not thread-safe.
 */
void use_driver(const DriverApi* api, std::span<const std::byte> image);

/** The device behind cuda_table(), opened when it is first asked for. For one thread at a time, as Device is. */
Status open_device(Device** device);

/** Calls of the table's entries for codes and products that the CPU did, since the device could not. */
int64_t fallbacks();

/** cuda_description() of the driver and image in use. */
std::string describe();

}  // namespace atlas::kernels::cuda
