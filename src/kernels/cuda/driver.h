#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"

namespace atlas::kernels::cuda {

/**
 * What Atlas uses of CUDA's driver API, in our own words: nothing of NVIDIA's is needed to build, and tests put a device of their own behind
 * the same table. Functions return 0 or the driver's error number; addresses, streams, events, modules and functions are the driver's.
 */
struct DriverApi {
    int (*init)(unsigned flags) = nullptr;
    int (*version)(int* version) = nullptr;  ///< 1000 · major + 10 · minor of the CUDA that the driver speaks
    int (*device_count)(int* count) = nullptr;
    int (*device_get)(int* device, int ordinal) = nullptr;
    int (*device_name)(char* name, int bytes, int device) = nullptr;
    int (*device_attribute)(int* value, int attribute, int device) = nullptr;
    int (*context_retain)(void** context, int device) = nullptr;
    int (*context_release)(int device) = nullptr;
    int (*context_use)(void* context) = nullptr;
    int (*module_load)(void** module, const void* image) = nullptr;
    int (*module_unload)(void* module) = nullptr;
    int (*module_function)(void** function, void* module, const char* name) = nullptr;
    int (*function_attribute)(void* function, int attribute, int value) = nullptr;
    int (*allocate)(uint64_t* address, size_t bytes) = nullptr;
    int (*release)(uint64_t address) = nullptr;
    int (*copy_in)(uint64_t to, const void* from, size_t bytes,
                   void* stream) = nullptr;  ///< from host memory, when its turn comes
    int (*copy_out)(void* to, uint64_t from, size_t bytes, void* stream) = nullptr;
    int (*fill)(uint64_t to, unsigned char value, size_t bytes, void* stream) = nullptr;
    int (*stream_create)(void** stream, unsigned flags) = nullptr;
    int (*stream_destroy)(void* stream) = nullptr;
    int (*stream_wait)(void* stream) = nullptr;  ///< until all that was asked of it is done
    int (*launch)(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                  unsigned block_z, unsigned shared_bytes, void* stream, void** arguments, void** extra) = nullptr;
    int (*error_name)(int error, const char** name) = nullptr;
};

// Numbers of the driver's interface.
inline constexpr int kAttributeMultiprocessors = 16;
inline constexpr int kAttributeMajor = 75;
inline constexpr int kAttributeMinor = 76;
inline constexpr int kAttributeSharedBytes = 97;  ///< the most that a block can have, opted in
inline constexpr int kFunctionSharedBytes = 8;    ///< of a function: dynamic shared memory that it may be launched with
inline constexpr unsigned kStreamNonBlocking = 1;

/**
 * Loads libcuda.so.1 of the installed driver and finds all functions. Unsupported, with the reason, where there is none or a function is missing.
 * The library stays loaded: a driver does not take being unloaded well.
 */
Status load_driver(DriverApi* api);

/** "CUDA_ERROR_OUT_OF_MEMORY", or "error 2" where the driver does not say. */
const char* name_of_error(const DriverApi& api, int error, char (&buffer)[32]);

}  // namespace atlas::kernels::cuda
