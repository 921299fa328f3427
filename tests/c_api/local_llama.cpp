// A program that loads libllama for itself alone (RTLD_LOCAL), as Python's ctypes does: local_llama PLUGIN [LIBLLAMA…].
#include <atlas/llama-atlas.h>
#include <dlfcn.h>
#include <ggml-backend.h>

#include <cstdio>
#include <cstring>

#include "fake_llama.h"

int main(int argc, char** argv) {
    ggml_backend_reg_t registry = ggml_backend_load(argv[1]);
    if (!registry) return 2;
    int loaded = 0;
    for (int i = 2; i < argc; ++i) loaded += dlopen(argv[i], RTLD_NOW | RTLD_LOCAL) != nullptr;
    if (loaded != argc - 2) return 3;
    const auto set_enabled = reinterpret_cast<decltype(&llama_set_atlas_enabled)>(
        ggml_backend_reg_get_proc_address(registry, "llama_set_atlas_enabled"));
    const auto last_error =
        reinterpret_cast<decltype(&atlas_last_error)>(ggml_backend_reg_get_proc_address(registry, "atlas_last_error"));
    ggml_backend_t backend = ggml_backend_dev_init(ggml_backend_dev_by_name("ATLAS0"), nullptr);
    llama_context context{{backend}};
    const atlas_status status = set_enabled(&context, true);
    std::printf("%d libraries: status %d, %s\n", loaded, status, last_error());
    ggml_backend_free(backend);
    switch (loaded) {
        case 0:
            return status == ATLAS_NO_LLAMA && std::strstr(last_error(), "no libllama.so is loaded") ? 0 : 1;
        case 1:
            return status == ATLAS_OK ? 0 : 1;
        default:
            return status == ATLAS_NO_LLAMA && std::strstr(last_error(), argv[2]) && std::strstr(last_error(), argv[3])
                       ? 0
                       : 1;
    }
}
