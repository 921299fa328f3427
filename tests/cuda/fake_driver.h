#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "kernels/cuda/driver.h"

// A device behind the driver's table that is made of the emulator: memory is the heap's (so AddressSanitizer knows its ends) and full of NaN,
// and nothing that is asked of a stream happens before somebody waits for it, or else at a moment drawn by seed.

namespace atlas::kernels::cuda::test {

/** The driver; one device, "Emulated GPU", sm_80. */
DriverApi fake_driver();
/** Stands for the fatbin. */
std::span<const std::byte> fake_image();

/** Starts anew: no failures to come, names and numbers as above, streams run by this seed. */
void reset_fake(unsigned seed);
/** The n-th call from now (0: the next) of a function that can fail returns `error`; then all is well again. */
void fail_call(int n, int error);
/** Calls of such functions since reset_fake. */
int calls_made();
/** Buffers that nobody has given back, modules, streams and contexts as well. */
int things_open();
/** What the device says of itself. */
void set_architecture(int major, int minor);
void set_shared_bytes(int bytes);
void set_devices(int count);

}  // namespace atlas::kernels::cuda::test
