#include "c_api/host_functions.h"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace atlas::c_api {
namespace {

std::string_view base_name(std::string_view path) { return path.substr(path.rfind('/') + 1); }

/** Paths of the loaded libraries called libllama.so, with or without a version. */
std::vector<std::string> llama_libraries() {
    struct Found {
        std::vector<std::string> paths;
        bool failed = false;
    } found;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
            auto& out = *static_cast<Found*>(data);
            try {
                if (info->dlpi_name && base_name(info->dlpi_name).starts_with("libllama.so"))
                    out.paths.emplace_back(info->dlpi_name);
            } catch (const std::bad_alloc&) {
                out.failed = true;  // an exception must not cross the C library
            }
            return 0;
        },
        &found);
    if (found.failed) throw std::bad_alloc();
    return std::move(found.paths);
}

}  // namespace

Status find_host_function(const char* name, void** address) {
    *address = dlsym(RTLD_DEFAULT, name);
    if (*address) return Status::ok();
    const std::vector<std::string> paths = llama_libraries();
    std::string holders;
    for (const std::string& path : paths) {
        void* library = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
        if (!library) continue;
        void* found = dlsym(library, name);
        dlclose(library);  // the program's own handle keeps it
        if (!found || found == *address) continue;
        holders += (holders.empty() ? "" : " and ") + path;
        if (*address)
            return Status::unsupported(std::string(name) + " is exported by " + holders +
                                       "; load one with RTLD_GLOBAL");
        *address = found;
    }
    if (*address) return Status::ok();
    return Status::unsupported(
        std::string(name) +
        (paths.empty() ? " was not found: no libllama.so is loaded. A program that contains llama.cpp itself has to "
                         "export its symbols (-rdynamic)"
                       : " was not found in " + paths.front()));
}

}  // namespace atlas::c_api
