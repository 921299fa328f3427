// A program without the shared libraries of ggml, as one is that has them inside it: the plug-in must not work on another ggml than the host.
// Usage: static_host PLUGIN. Status 0: the plug-in refused.

#include <dlfcn.h>

#include <cstdio>

int main(int argc, char** argv) {
    void* library = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : nullptr;
    void* entry = library ? dlsym(library, "ggml_backend_init") : nullptr;
    if (!entry) {
        std::fprintf(stderr, "static_host: %s\n", argc == 2 ? dlerror() : "usage: static_host PLUGIN");
        return 2;
    }
    if (reinterpret_cast<void* (*)()>(entry)()) return 1;
    std::printf("static_host: refused\n");
    return 0;
}
