#include "host/abi/detect.h"

#include <dlfcn.h>
#include <ggml.h>

#include <cstdio>
#include <string>

namespace atlas::host::abi {
namespace {

constexpr const char* kSupported = "ggml 0.9 to 0.39 with backend API 2 (layout of April 2026) or 3";

bool has_symbol(const char* name) { return dlsym(RTLD_DEFAULT, name) != nullptr; }

}  // namespace

HostFacts probe_host() {
    // RTLD_DEFAULT reaches what the plug-in itself links: the ggml-base that the host has loaded.
    return {ggml_version(), has_symbol("ggml_backend_tensor_set_2d"), has_symbol("ggml_backend_buft_alloc_buffer_n")};
}

Status choose_layout(const HostFacts& facts, Layout* layout) {
    const std::string found = std::string("ggml ") + (facts.version ? facts.version : "of unknown version");
    int major = 0;
    int minor = 0;
    if (!facts.version || std::sscanf(facts.version, "%d.%d", &major, &minor) != 2 || major != 0 || minor < 9 ||
        minor >= 40) {
        return Status::unsupported("host has " + found + "; supported is " + kSupported);
    }
    if (facts.has_buft_alloc_buffer_n && !facts.has_tensor_set_2d) {
        return Status::unsupported("host has " + found +
                                   " that exports ggml_backend_buft_alloc_buffer_n but not the older "
                                   "ggml_backend_tensor_set_2d; supported is " +
                                   kSupported);
    }
    if (!facts.has_tensor_set_2d) {
        return Status::unsupported("host has " + found +
                                   " with a backend interface older than April 2026; supported is " + kSupported);
    }
    *layout = facts.has_buft_alloc_buffer_n ? Layout::kV3 : Layout::kV2;
    return Status::ok();
}

}  // namespace atlas::host::abi
