#include "host/abi/detect.h"

#include <dlfcn.h>
#include <ggml.h>
#include <link.h>

#include <cstdint>
#include <cstdio>
#include <string>

#include "host/abi/tested.h"

namespace atlas::host::abi {
namespace {

/** Made when it is asked for: an allocation that fails while the library is loaded would end the program. */
std::string supported() { return std::string("ggml ") + kTested + " with backend API 2 (layout of April 2026) or 3"; }

/** Minor version of a ggml 0.x, -1: another major version or none. */
int minor_of(const char* version) {
    int major = 0;
    int minor = 0;
    return version && std::sscanf(version, "%d.%d", &major, &minor) == 2 && major == 0 ? minor : -1;
}

/** Number of a loaded object, in the order of loading, by an address inside it; -1: none. */
int load_order(const void* address) {
    struct Search {
        uintptr_t address;
        int next = 0;
        int found = -1;
    } search{reinterpret_cast<uintptr_t>(address)};
    dl_iterate_phdr(
        [](dl_phdr_info* object, size_t, void* data) {
            auto& wanted = *static_cast<Search*>(data);
            for (int i = 0; i < object->dlpi_phnum; ++i) {
                const auto& part = object->dlpi_phdr[i];
                const uintptr_t begin = object->dlpi_addr + part.p_vaddr;
                if (part.p_type == PT_LOAD && wanted.address >= begin && wanted.address < begin + part.p_memsz)
                    wanted.found = wanted.next;
            }
            ++wanted.next;
            return wanted.found >= 0 ? 1 : 0;
        },
        &search);
    return search.found;
}

/**
 * Whether the ggml that Atlas is bound to came into the process with Atlas: a program that has its own inside it would see its tensors handled
 * by another one. What the program was started with is the host's in any case, as is what it loaded before Atlas.
 */
bool is_another_ggml() {
    void* program = dlopen(nullptr, RTLD_LAZY);
    const bool started_with = program && dlsym(program, "ggml_nbytes") != nullptr;
    if (program) dlclose(program);
    static const int here = 0;
    return !started_with && load_order(reinterpret_cast<const void*>(&ggml_nbytes)) > load_order(&here);
}

bool has_symbol(const char* name) { return dlsym(RTLD_DEFAULT, name) != nullptr; }

}  // namespace

HostFacts probe_host() {
    // RTLD_DEFAULT reaches what the plug-in itself links: the ggml-base that the host has loaded.
    return {ggml_version(), has_symbol("ggml_backend_tensor_set_2d"), has_symbol("ggml_backend_buft_alloc_buffer_n"),
            is_another_ggml()};
}

Status choose_layout(const HostFacts& facts, Layout* layout) {
    const std::string found = std::string("ggml ") + (facts.version ? facts.version : "of unknown version");
    if (facts.is_another_ggml) {
        return Status::unsupported("host has a ggml of its own inside it, and Atlas would use another, " + found +
                                   "; supported are programs that use the shared libraries");
    }
    if (minor_of(facts.version) < kOldestMinor) {
        return Status::unsupported("host has " + found + "; supported is " + supported());
    }
    if (facts.has_buft_alloc_buffer_n && !facts.has_tensor_set_2d) {
        return Status::unsupported("host has " + found +
                                   " that exports ggml_backend_buft_alloc_buffer_n but not the older "
                                   "ggml_backend_tensor_set_2d; supported is " +
                                   supported());
    }
    if (!facts.has_tensor_set_2d) {
        return Status::unsupported("host has " + found +
                                   " with a backend interface older than April 2026; supported is " + supported());
    }
    *layout = facts.has_buft_alloc_buffer_n ? Layout::kV3 : Layout::kV2;
    return Status::ok();
}

std::string untested(const HostFacts& facts) {
    if (minor_of(facts.version) <= kNewestMinor) return {};
    return std::string("ggml ") + facts.version + " is newer than the versions that were tested, " + kTested +
           "; it passed the self-test";
}

std::string refusal(const HostFacts& facts, const Status& difference) {
    return std::string("host has ggml ") + facts.version + ", and its interface differs: " + difference.message() +
           "; supported is " + supported();
}

}  // namespace atlas::host::abi
