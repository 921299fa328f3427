#include "kernels/cuda/driver.h"

#include <dlfcn.h>

#include <cstdio>
#include <string>

namespace atlas::kernels::cuda {
namespace {

constexpr const char* kLibrary = "libcuda.so.1";

template <class Function>
bool find(void* library, const char* name, Function** function, std::string* missing) {
    *function = reinterpret_cast<Function*>(dlsym(library, name));
    if (!*function && missing->empty()) *missing = name;
    return *function != nullptr;
}

}  // namespace

Status load_driver(DriverApi* api) {
    void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
    if (!library) return Status::unsupported(std::string("CUDA: no NVIDIA driver: ") + kLibrary + " is not there");
    std::string missing;
    find(library, "cuInit", &api->init, &missing);
    find(library, "cuDriverGetVersion", &api->version, &missing);
    find(library, "cuDeviceGetCount", &api->device_count, &missing);
    find(library, "cuDeviceGet", &api->device_get, &missing);
    find(library, "cuDeviceGetName", &api->device_name, &missing);
    find(library, "cuDeviceGetAttribute", &api->device_attribute, &missing);
    find(library, "cuDevicePrimaryCtxRetain", &api->context_retain, &missing);
    find(library, "cuDevicePrimaryCtxRelease_v2", &api->context_release, &missing);
    find(library, "cuCtxSetCurrent", &api->context_use, &missing);
    find(library, "cuModuleLoadData", &api->module_load, &missing);
    find(library, "cuModuleUnload", &api->module_unload, &missing);
    find(library, "cuModuleGetFunction", &api->module_function, &missing);
    find(library, "cuFuncSetAttribute", &api->function_attribute, &missing);
    find(library, "cuMemAlloc_v2", &api->allocate, &missing);
    find(library, "cuMemFree_v2", &api->release, &missing);
    find(library, "cuMemcpyHtoDAsync_v2", &api->copy_in, &missing);
    find(library, "cuMemcpyDtoHAsync_v2", &api->copy_out, &missing);
    find(library, "cuMemsetD8Async", &api->fill, &missing);
    find(library, "cuStreamCreate", &api->stream_create, &missing);
    find(library, "cuStreamDestroy_v2", &api->stream_destroy, &missing);
    find(library, "cuStreamSynchronize", &api->stream_wait, &missing);
    find(library, "cuLaunchKernel", &api->launch, &missing);
    find(library, "cuGetErrorName", &api->error_name, &missing);
    if (missing.empty()) return Status::ok();
    return Status::unsupported(std::string("CUDA: the NVIDIA driver is too old: ") + kLibrary + " has no " + missing);
}

const char* name_of_error(const DriverApi& api, int error, char (&buffer)[32]) {
    const char* name = nullptr;
    if (api.error_name(error, &name) == 0 && name) return name;
    std::snprintf(buffer, sizeof buffer, "error %d", error);
    return buffer;
}

}  // namespace atlas::kernels::cuda
