#pragma once

#include "base/status.h"

namespace atlas::c_api {

/**
 * Address of a function of the process's libllama: in the global scope, or, where a program loaded libllama for itself alone (dlopen without
 * RTLD_GLOBAL, Python's ctypes for one), in the one loaded library with that name. Not cached: libraries come and go. Errors: unsupported when there is none, or
 * when several different ones export it, since a context cannot be told apart by its address.
 */
Status find_host_function(const char* name, void** address);

}  // namespace atlas::c_api
